//! What the kernels need of a vector unit: one row of a panel per lane.

/// A vector unit as the kernels see it. A vector has [`ROWS`](Lanes::ROWS) lanes of 32 bits: a row's f32, its i32, or four of its codes.
///
/// # Safety
/// Every method may be called only where the CPU has the implementation's instructions; those that take a pointer access as many bytes as they say.
/// Methods are inlined into functions that enable the instructions (`#[target_feature]`).
pub(super) trait Lanes {
    /// Lanes of a vector: 16, or 8 for half a panel.
    const ROWS: usize;
    /// Tokens of a tile of two vectors of rows for which sums fit the registers: with integer codes, 8 or 4.
    const CODE_TOKENS: usize;
    /// The same with floats: 12, 4 or, where there are no vectors, 1.
    const FLOAT_TOKENS: usize;
    /// Whether [`dot_bytes`](Lanes::dot_bytes) itself takes 128 off each code.
    const SIGNED_BYTES: bool;
    /// Lanes of integers.
    type I: Copy;
    /// Lanes of f32.
    type F: Copy;

    /// Loads `4 * ROWS` bytes.
    unsafe fn load(bytes: *const u8) -> Self::I;
    /// Asks for the cache line of an address, which need not be valid, in the nearest cache.
    unsafe fn prefetch(bytes: *const u8);
    /// The same in the second level cache, for what is used later.
    unsafe fn prefetch_far(bytes: *const u8);
    /// Asks for the cache line of an address, which need not be valid, to be written.
    unsafe fn prefetch_write(bytes: *const u8);
    /// Stores `4 * ROWS` bytes.
    unsafe fn store_bytes(a: Self::I, to: *mut u8);
    /// All lanes zero.
    unsafe fn zero() -> Self::I;
    /// The same byte everywhere.
    unsafe fn splat_byte(byte: u8) -> Self::I;
    /// Bitwise and.
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise or.
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    /// Shifts right (`by > 0`, at most 7) or left (`by < 0`, at least -4); bits that cross into another byte are for the caller to mask off.
    unsafe fn shift_right(a: Self::I, by: i32) -> Self::I;
    /// The level plus 128 of each 4-bit code, out of the table of the IQ4 formats.
    unsafe fn iq4_levels(codes: Self::I) -> Self::I;
    /// Adds to each lane the dot product of its four codes, below 64, with the four activations at `x`.
    unsafe fn dot(sum: Self::I, codes: Self::I, x: *const i8) -> Self::I;
    /// As `dot` for codes of all 8 bits; where `SIGNED_BYTES`, for `code - 128`.
    unsafe fn dot_bytes(sum: Self::I, codes: Self::I, x: *const i8) -> Self::I;
    /// Lane-wise `a * 2^-by` of one number for all lanes; `by` is at most 7.
    unsafe fn splat_shifted(number: *const i32, by: u32) -> Self::I;
    /// Byte-wise sum.
    unsafe fn add_bytes(a: Self::I, b: Self::I) -> Self::I;
    /// Integers to f32.
    unsafe fn to_f32(a: Self::I) -> Self::F;

    /// The same number in all lanes.
    unsafe fn splat(value: f32) -> Self::F;
    /// `a * b`
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a + b`
    unsafe fn add_f32(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`
    unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`
    unsafe fn neg_mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Loads `ROWS` f32.
    unsafe fn load_f32(bytes: *const u8) -> Self::F;
    /// Loads `ROWS` half precision numbers.
    unsafe fn load_f16(bytes: *const u8) -> Self::F;
    /// Loads `ROWS` pairs of bf16 numbers: the first ones, and the second ones.
    unsafe fn load_bf16_pairs(bytes: *const u8) -> [Self::F; 2];
    /// Loads `ROWS` signed bytes.
    unsafe fn load_i8(bytes: *const u8) -> Self::F;
    /// Loads `ROWS` unsigned bytes.
    unsafe fn load_u8(bytes: *const u8) -> Self::F;
    /// Stores `ROWS` f32.
    unsafe fn store(a: Self::F, to: *mut f32);
}
