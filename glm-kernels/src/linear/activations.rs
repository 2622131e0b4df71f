//! Activations rounded to 8 bits, once per matrix product, for the weights with integer codes.
//!
//! Every format shares one form: blocks of 32 columns with an f32 scale, `x ≈ scale * code`, `|code| <= 127`. Beside the codes stand the sums that
//! zero points and minima of weights are multiplied with. A block depends on its own 32 values alone, so a token's codes do not depend on the batch.
//!
//! Tokens lie in tiles, as the kernels take them: a block of all tokens of a tile, then the next block. So a tile's block is one operand of a matrix
//! unit, and what a vector unit broadcasts lies side by side.

use crate::memory::Buffer;
use crate::parallel::SharedMut;
use crate::{Device, Isa, KernelError};

use super::layout::BLOCK_COLS;

/// Tokens of a tile, unless there are fewer than [`MANY`] in all.
pub(super) const TILE: usize = 16;

/// From this many tokens on, weights are unpacked once for all of them.
pub(super) const MANY: usize = 2;

/// Which codes of a block a number sums up.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Whole,
    Low,
    High,
}

/// Numbers beside a block of codes: the scale; for each [`Part`], `scale` times the sum of the codes; for each, -128 times that sum, an i32.
const KINDS: usize = 7;
const SCALE: usize = 0;
const SCALED_SUMS: usize = 1;
const BIASES: usize = 4;

/// `[T, cols]` activations as codes.
pub(super) struct QuantizedRows {
    blocks: usize,
    /// Tokens that a tile has room for.
    height: usize,
    /// Numbers of one kind.
    kind_len: usize,
    /// `[tiles, blocks, height, 32]`
    codes: Buffer,
    /// `[KINDS, tiles, blocks, height]`
    numbers: Buffer,
}

impl QuantizedRows {
    /// Rounds the rows of `x`, `[T, cols]` with `cols` a multiple of 32, on all threads of the device.
    pub fn new(device: &Device, x: &[f32], cols: usize) -> Result<Self, KernelError> {
        debug_assert!(cols.is_multiple_of(BLOCK_COLS) && x.len().is_multiple_of(cols));
        let (tokens, blocks) = (x.len() / cols, cols / BLOCK_COLS);
        let height = if tokens < MANY { tokens } else { TILE };
        let kind_len = tokens.next_multiple_of(height.max(1)) * blocks;
        let mut rows = Self {
            blocks,
            height,
            kind_len,
            codes: device.allocate(kind_len * BLOCK_COLS)?,
            numbers: device.allocate(KINDS * kind_len * size_of::<f32>())?,
        };
        let isa = device.isa();
        let codes = SharedMut::new(rows.codes.as_slice_of_mut::<i8>());
        let numbers = SharedMut::new(rows.numbers.as_slice_of_mut::<f32>());
        let rounding = Rounding {
            x,
            blocks,
            height,
            kind_len,
            codes,
            numbers,
        };
        device
            .pool()
            .for_each_range(tokens * blocks, MIN_BLOCKS_PER_TASK, |range| match isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the token is the proof that the CPU has these instructions.
                Isa::Avx2(_) | Isa::Avx512(_) | Isa::Amx(_) => unsafe { rounding.run_avx2(range) },
                Isa::Scalar => rounding.run(range, round),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon(_) => rounding.run(range, round),
            });
        Ok(rows)
    }

    /// The tile of token `t`, and the token's place in it.
    #[inline(always)]
    pub fn place(&self, t: usize) -> (Tile, usize) {
        (self.tile(t / self.height), t % self.height)
    }

    /// Tile `index`.
    #[inline(always)]
    pub fn tile(&self, index: usize) -> Tile {
        let start = index * self.blocks * self.height;
        assert!(start < self.kind_len);
        Tile {
            codes: self.codes.as_slice_of::<i8>()[start * BLOCK_COLS..].as_ptr(),
            numbers: self.numbers.as_slice_of::<f32>()[start..].as_ptr(),
            height: self.height,
            kind_len: self.kind_len,
        }
    }
}

/// The tokens of a tile. What its methods return is valid for as many tokens as the tile has room for, `block` below `cols / 32`; beyond the last
/// token the memory holds anything.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    codes: *const i8,
    numbers: *const f32,
    height: usize,
    kind_len: usize,
}

impl Tile {
    /// `[height, 32]` codes.
    #[inline(always)]
    pub fn codes(self, block: usize) -> *const i8 {
        self.codes.wrapping_add(block * self.height * BLOCK_COLS)
    }

    /// `[height]` scales.
    #[inline(always)]
    pub fn scales(self, block: usize) -> *const f32 {
        self.kind(SCALE, block)
    }

    /// `[height]` of `scale` times the sum of the codes.
    #[inline(always)]
    pub fn scaled_sums(self, part: Part, block: usize) -> *const f32 {
        self.kind(SCALED_SUMS + part as usize, block)
    }

    /// `[height]` of -128 times the sum of the codes: what a dot product starts from if codes of weights are 128 too large.
    #[inline(always)]
    pub fn biases(self, part: Part, block: usize) -> *const i32 {
        self.kind(BIASES + part as usize, block).cast()
    }

    #[inline(always)]
    fn kind(self, kind: usize, block: usize) -> *const f32 {
        self.numbers
            .wrapping_add(kind * self.kind_len + block * self.height)
    }
}

/// Fewer blocks than this (64 thousand values, some 10 µs of work) are not worth waking a thread for.
const MIN_BLOCKS_PER_TASK: usize = 2048;

/// The rounding of `x`, shared by the threads.
struct Rounding<'a> {
    x: &'a [f32],
    blocks: usize,
    height: usize,
    kind_len: usize,
    codes: SharedMut<'a, i8>,
    numbers: SharedMut<'a, f32>,
}

impl Rounding<'_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    unsafe fn run_avx2(&self, range: std::ops::Range<usize>) {
        self.run(range, |x, codes| round_avx2(x, codes));
    }

    /// Rounds blocks `range`, counted row by row.
    #[inline(always)]
    fn run(
        &self,
        range: std::ops::Range<usize>,
        round: impl Fn(&[f32; BLOCK_COLS], &mut [i8; BLOCK_COLS]) -> [f32; KINDS],
    ) {
        let source = self.x.as_chunks::<BLOCK_COLS>().0;
        for index in range {
            let (t, block) = (index / self.blocks, index % self.blocks);
            let at = ((t / self.height) * self.blocks + block) * self.height + t % self.height;
            // SAFETY: `at` is different for each block, and a block is rounded by one task.
            let codes = unsafe { self.codes.slice(at * BLOCK_COLS, BLOCK_COLS) };
            let numbers = round(&source[index], &mut codes.as_chunks_mut().0[0]);
            for (kind, number) in numbers.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { self.numbers.slice(kind * self.kind_len + at, 1)[0] = number };
            }
        }
    }
}

/// Rounds a block, and gives the numbers beside it.
#[inline(always)]
fn round(x: &[f32; BLOCK_COLS], codes: &mut [i8; BLOCK_COLS]) -> [f32; KINDS] {
    let largest = x
        .iter()
        .fold(0u32, |max, value| max.max(value.to_bits() & MAGNITUDE));
    let [scale, inverse] = scale(largest);
    let mut sums = [0i32; 2];
    for (half, sum) in sums.iter_mut().enumerate() {
        for i in 16 * half..16 * (half + 1) {
            codes[i] = (x[i] * inverse + ROUNDING).to_bits() as i8;
            *sum += i32::from(codes[i]);
        }
    }
    numbers(scale, sums)
}

/// Without the sign. Magnitudes compare as integers, and NaN is the largest: it reaches the scale, and so the result, instead of vanishing.
const MAGNITUDE: u32 = 0x7fff_ffff;
/// Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
const ROUNDING: f32 = 12_582_912.0;

/// The scale of a block whose largest magnitude has these bits, and what its values are multiplied with.
#[inline(always)]
fn scale(largest: u32) -> [f32; 2] {
    let scale = f32::from_bits(largest) / 127.0;
    [scale, if scale == 0.0 { 0.0 } else { 1.0 / scale }]
}

/// The numbers beside a block, from the sums of the first and of the last 16 codes.
#[inline(always)]
fn numbers(scale: f32, [low, high]: [i32; 2]) -> [f32; KINDS] {
    let scaled = |sum: i32| scale * sum as f32;
    let bias = |sum: i32| f32::from_bits((-128 * sum) as u32);
    [
        scale,
        scaled(low + high),
        scaled(low),
        scaled(high),
        bias(low + high),
        bias(low),
        bias(high),
    ]
}

/// [`round`] in vectors, the same to the bit: no operation is fused. (The compiler's own vectors take the codes out one by one to sum them.)
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn round_avx2(x: &[f32; BLOCK_COLS], codes: &mut [i8; BLOCK_COLS]) -> [f32; KINDS] {
    use std::arch::x86_64::*;
    // SAFETY: 32 values are four vectors of eight.
    let x = [0, 8, 16, 24].map(|at| unsafe { _mm256_loadu_ps(x.as_ptr().add(at)) });
    let magnitudes = x.map(|x| {
        let mask = _mm256_set1_epi32(MAGNITUDE as i32);
        _mm256_and_si256(_mm256_castps_si256(x), mask)
    });
    let [a, b, c, d] = magnitudes;
    let most = _mm256_max_epu32(_mm256_max_epu32(a, b), _mm256_max_epu32(c, d));
    let most = _mm_max_epu32(
        _mm256_castsi256_si128(most),
        _mm256_extracti128_si256::<1>(most),
    );
    let most = _mm_max_epu32(most, _mm_shuffle_epi32::<0b01_00_11_10>(most));
    let most = _mm_max_epu32(most, _mm_shuffle_epi32::<0b10_11_00_01>(most));
    let [scale, inverse] = scale(_mm_cvtsi128_si32(most) as u32);
    let low_bytes = x.map(|x| {
        let rounded = _mm256_add_ps(
            _mm256_mul_ps(x, _mm256_set1_ps(inverse)),
            _mm256_set1_ps(ROUNDING),
        );
        _mm256_and_si256(_mm256_castps_si256(rounded), _mm256_set1_epi32(0xff))
    });
    let [a, b, c, d] = low_bytes;
    // Packing works within halves of a vector, so that quads of codes lie in the order 0 2 4 6 1 3 5 7 then.
    let bytes = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
    let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    // SAFETY: 32 codes are one vector.
    unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), bytes) };
    // Sums of eight bytes are formed without a sign: each is 128 too large.
    let unsigned = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
    let eights = _mm256_sad_epu8(unsigned, _mm256_setzero_si256());
    let low = _mm256_castsi256_si128(eights);
    let high = _mm256_extracti128_si256::<1>(eights);
    let sum = |pair: __m128i| {
        let both = _mm_add_epi32(pair, _mm_unpackhi_epi64(pair, pair));
        _mm_cvtsi128_si32(both) - 16 * 128
    };
    numbers(scale, [sum(low), sum(high)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuOptions;

    fn quantized(isa: Isa, x: &[f32], cols: usize) -> QuantizedRows {
        let device = Device::cpu(CpuOptions {
            threads: Some(2),
            isa: Some(isa),
        })
        .unwrap();
        QuantizedRows::new(&device, x, cols).unwrap()
    }

    /// The codes and numbers of a block of a token.
    fn block(rows: &QuantizedRows, t: usize, block: usize) -> ([i8; 32], [f32; KINDS]) {
        let (tile, i) = rows.place(t);
        // SAFETY: the tile has this token and block.
        unsafe {
            let codes = tile.codes(block).add(i * BLOCK_COLS).cast::<[i8; 32]>();
            (
                *codes,
                std::array::from_fn(|kind| *tile.kind(kind, block).add(i)),
            )
        }
    }

    #[test]
    fn codes_are_within_half_a_step_and_sums_are_exact() {
        for tokens in [2, 3, 16, 37] {
            let x: Vec<f32> = (0..tokens * 64)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.173)
                .collect();
            for isa in Isa::available() {
                let rows = quantized(isa, &x, 64);
                for (index, x) in x.chunks(32).enumerate() {
                    let (codes, numbers) = block(&rows, index / 2, index % 2);
                    let scale = numbers[SCALE];
                    let sum = |codes: &[i8]| codes.iter().map(|code| i32::from(*code)).sum::<i32>();
                    for (part, codes) in [&codes[..], &codes[..16], &codes[16..]]
                        .into_iter()
                        .enumerate()
                    {
                        assert_eq!(numbers[SCALED_SUMS + part], scale * sum(codes) as f32);
                        assert_eq!(numbers[BIASES + part].to_bits() as i32, -128 * sum(codes));
                    }
                    for (x, code) in x.iter().zip(codes) {
                        assert!((x - scale * f32::from(code)).abs() <= 0.501 * scale);
                        assert!(code >= -127);
                    }
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn vectors_round_as_single_numbers_do() {
        if !is_x86_feature_detected!("avx2") {
            return;
        }
        let mut state = 1u64;
        for case in 0..20_000 {
            let x = std::array::from_fn(|i| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let bits = (state >> 32) as u32;
                match case % 4 {
                    // Of like size; small integers, so that some lie in the middle; any number at all; few that are not zero.
                    0 => bits as i32 as f32 * 1e-9,
                    1 => (bits % 255) as f32 - 127.0 + (bits >> 31) as f32 * 0.5,
                    2 => f32::from_bits(bits),
                    _ if i == case % 32 => f32::from_bits(bits % 0x0100_0000),
                    _ => 0.0,
                }
            });
            let [mut codes, mut expected] = [[1i8; 32]; 2];
            // SAFETY: the CPU has AVX2.
            let numbers = unsafe { round_avx2(&x, &mut codes) };
            let bits = |numbers: [f32; KINDS]| numbers.map(f32::to_bits);
            let reference = round(&x, &mut expected);
            if reference[SCALE].is_finite() {
                assert_eq!((codes, bits(numbers)), (expected, bits(reference)), "{x:?}");
            } else {
                assert!(!numbers[SCALE].is_finite(), "{x:?}");
            }
        }
    }

    #[test]
    fn zeros_stay_zero_and_nan_reaches_the_scale() {
        for isa in Isa::available() {
            let (codes, numbers) = block(&quantized(isa, &[0.0; 32], 32), 0, 0);
            assert_eq!((codes, numbers), ([0; 32], [0.0; KINDS]));
            let mut x = [1.0; 32];
            x[7] = f32::NAN;
            assert!(block(&quantized(isa, &x, 32), 0, 0).1[SCALE].is_nan());
        }
    }
}
