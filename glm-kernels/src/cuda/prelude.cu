// What every kernel starts with: this text is put in front of each `.cu` by whoever compiles it. No includes: a compiler
// library is all that is needed at run time. What is PTX has a second body for the host, under GLM_EMULATED, which
// `cuda/emulate/emulate.h` supports.
//
// Conventions
// - Kernels are `extern "C" __global__`, begin with the name of their verb and are followed by GLM_KERNEL(name).
// - Sizes are `u32` where the launcher has checked that they fit, offsets into tensors are `u64`.
// - Registers of fragments are `u32` pairs of 16-bit numbers, the lower index in the lower half.

typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef GLM_EMULATED
#define GLM_KERNEL(name)
#endif

#define WARP_SIZE 32u
#define FULL_MASK 0xffffffffu
#define LOG2_E 1.4426950408889634f

// -3.4e38 and less: a score that no key has, yet whose difference to itself is a number.
#define LOWEST (-3.0e38f)
#define INFINITE __int_as_float(0x7f800000)

static __device__ __forceinline__ u32 lane_id() { return threadIdx.x % WARP_SIZE; }
static __device__ __forceinline__ u32 warp_id() { return threadIdx.x / WARP_SIZE; }
static __device__ __forceinline__ u32 ceil_div(u32 a, u32 b) { return (a + b - 1) / b; }

// --- memory ---------------------------------------------------------------------------------------------------------------

// The dynamic shared memory of the block, aligned to 1024 bytes.
static __device__ __forceinline__ u8* dynamic_shared() {
#ifdef GLM_EMULATED
    return emulate::shared_memory();
#else
    extern __shared__ __align__(1024) u8 glm_dynamic_shared[];
    return glm_dynamic_shared;
#endif
}

#ifndef GLM_EMULATED
static __device__ __forceinline__ u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }
#endif

// 16 bytes that nobody writes while the kernel is there, not even a kernel before it that has not ended, and that will be wanted
// again: weights.
static __device__ __forceinline__ uint4 load16(const void* from) {
#ifdef GLM_EMULATED
    emulate::check_aligned(from, 16, "load16");
    return *(const uint4*)from;
#else
    uint4 x; // volatile: it must not move before `wait_for_previous_kernel`
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(from));
    return x;
#endif
}

// As `load16`, of what is read once: it leaves no trace in the first-level cache.
static __device__ __forceinline__ uint4 load16_once(const void* from) {
#ifdef GLM_EMULATED
    return load16(from);
#else
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(from));
    return x;
#endif
}

// 16 bytes that are read once and that a kernel before this one wrote, perhaps while this one was there and waited for it: the
// cache must not take them for constants, as it may in the two above.
static __device__ __forceinline__ uint4 load16_written(const void* from) {
#ifdef GLM_EMULATED
    emulate::check_aligned(from, 16, "load16_written");
    return *(const uint4*)from;
#else
    uint4 x;
    asm volatile("ld.global.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(from));
    return x;
#endif
}

static __device__ __forceinline__ void store16(void* to, uint4 x) {
#ifdef GLM_EMULATED
    emulate::check_aligned(to, 16, "store16");
#endif
    *(uint4*)to = x;
}

// Asks for the line at `from` to be brought into the second-level cache.
static __device__ __forceinline__ void prefetch_l2(const void* from) {
#ifdef GLM_EMULATED
    (void)from;
#else
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
#endif
}

// Copies `bytes` (0 to 16) and zeros up to 16 into shared memory, in the background. Both are aligned to 16 bytes; with `bytes`
// 0 nothing is read.
static __device__ __forceinline__ void cp_async16(void* to, const void* from, u32 bytes = 16) {
#ifdef GLM_EMULATED
    emulate::copy_later(to, from, bytes, 16);
#else
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
#endif
}

// Closes the group of copies that this thread has asked for.
static __device__ __forceinline__ void cp_async_commit() {
#ifdef GLM_EMULATED
    emulate::close_group();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `PENDING` groups of this thread are under way. Others see the data after a barrier.
template <u32 PENDING> static __device__ __forceinline__ void cp_async_wait() {
#ifdef GLM_EMULATED
    emulate::wait_for_groups(PENDING);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// --- programmatic dependent launch -------------------------------------------------------------------------------------------

// Waits for the kernels before this one: what they wrote is there. Nothing where the launch does not overlap.
static __device__ __forceinline__ void wait_for_previous_kernel() {
#if !defined(GLM_EMULATED) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel start its prologue.
static __device__ __forceinline__ void start_next_kernel() {
#if !defined(GLM_EMULATED) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// --- 16-bit and 8-bit numbers --------------------------------------------------------------------------------------------------

static __device__ __forceinline__ float bf16_to_f32(u16 x) { return __uint_as_float((u32)x << 16); }
static __device__ __forceinline__ float bf16_low(u32 pair) { return __uint_as_float(pair << 16); }
static __device__ __forceinline__ float bf16_high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

#ifdef GLM_EMULATED
// To nearest, ties to even, as `cvt.rn.bf16.f32`; a NaN stays one.
static inline u16 emulated_bf16(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return u16((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static inline float emulated_f16_to_f32(u16 x) {
    u32 sign = (u32)(x & 0x8000u) << 16, exponent = x >> 10 & 31, fraction = x & 1023u;
    float size;
    if (exponent == 31) size = __uint_as_float(0x7f800000u | fraction << 13);
    else if (exponent == 0) size = std::ldexp((float)fraction, -24);
    else size = __uint_as_float((exponent + 112) << 23 | fraction << 13);
    return __uint_as_float(__float_as_uint(size) | sign);
}

// To nearest, ties to even, as `cvt.rn.f16.f32`.
static inline u16 emulated_f16(float x) {
    u32 bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return 0x7fff;
    if (size >= 0x477ff000u) return u16(sign | 0x7c00u); // rounds to 65536 or more
    if (size < 0x38800000u)                              // subnormal: counts of 2^-24
        return u16(sign | (u32)std::nearbyint(std::ldexp(__uint_as_float(size), 24)));
    size += 0xfffu + (size >> 13 & 1);
    return u16(sign | (size - 0x38000000u) >> 13);
}

// Saturating, to nearest, ties to even, as `cvt.rn.satfinite.e4m3x2.f32`.
static inline u8 emulated_e4m3(float x) {
    u32 bits = __float_as_uint(x);
    u8 sign = u8(bits >> 24 & 0x80u);
    float size = std::fabs(x);
    if (!(size <= 448.0f)) return size > 448.0f ? u8(sign | 0x7e) : u8(0x7f);
    if (size < 0.015625f) return u8(sign | (u8)std::nearbyint(size * 512.0f));
    u32 rounded = __float_as_uint(size);
    rounded += 0x7ffffu + (rounded >> 20 & 1);
    return u8(sign | u8((rounded >> 20) - (120u << 3)));
}
#endif

static __device__ __forceinline__ u16 f32_to_bf16(float x) {
#ifdef GLM_EMULATED
    return emulated_bf16(x);
#else
    u16 out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(x));
    return out;
#endif
}

static __device__ __forceinline__ u32 pack_bf16(float low, float high) {
#ifdef GLM_EMULATED
    return emulated_bf16(low) | (u32)emulated_bf16(high) << 16;
#else
    u32 out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
#endif
}

static __device__ __forceinline__ float f16_to_f32(u16 x) {
#ifdef GLM_EMULATED
    return emulated_f16_to_f32(x);
#else
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x));
    return out;
#endif
}
static __device__ __forceinline__ float f16_low(u32 pair) { return f16_to_f32((u16)pair); }
static __device__ __forceinline__ float f16_high(u32 pair) { return f16_to_f32((u16)(pair >> 16)); }

static __device__ __forceinline__ u16 f32_to_f16(float x) {
#ifdef GLM_EMULATED
    return emulated_f16(x);
#else
    u16 out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out) : "f"(x));
    return out;
#endif
}

static __device__ __forceinline__ u32 pack_f16(float low, float high) {
#ifdef GLM_EMULATED
    return emulated_f16(low) | (u32)emulated_f16(high) << 16;
#else
    u32 out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
#endif
}

// An 8-bit number with 4 bits of exponent and 3 of fraction (bias 7, largest 448, no infinity) as f16 is its sign, and its
// other bits one place to the right of f16's, times 2^8: exact for all, subnormals included; the two NaN become 480.
static __device__ __forceinline__ float e4m3_to_f32(u8 x) {
    u16 half = (u16)((x & 0x80u) << 8 | (x & 0x7fu) << 7);
    return f16_to_f32(half) * 256.0f;
}

static __device__ __forceinline__ u8 f32_to_e4m3(float x) {
#ifdef GLM_EMULATED
    return emulated_e4m3(x);
#elif __CUDA_ARCH__ >= 890
    u16 out;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(out) : "f"(0.0f), "f"(x));
    return (u8)out;
#else
    u32 bits = __float_as_uint(x);
    u32 sign = bits >> 24 & 0x80u;
    float size = fabsf(x);
    if (!(size <= 448.0f)) return (u8)(size > 448.0f ? sign | 0x7eu : 0x7fu);
    if (size < 0.015625f) return (u8)(sign | (u32)__float2int_rn(size * 512.0f));
    u32 rounded = __float_as_uint(size);
    rounded += 0x7ffffu + (rounded >> 20 & 1u);
    return (u8)(sign | ((rounded >> 20) - (120u << 3)));
#endif
}

// --- functions -----------------------------------------------------------------------------------------------------------------

// 2^x to about two units in the last place; results below 2^-126 are 0.
static __device__ __forceinline__ float exp2_fast(float x) {
#ifdef GLM_EMULATED
    return std::exp2(x);
#else
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
#endif
}

// --- the warp and the block -------------------------------------------------------------------------------------------------------

static __device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) x += __shfl_xor_sync(FULL_MASK, x, bits);
    return x;
}

static __device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, bits));
    return x;
}

// The sum over all threads of the block (a multiple of 32 of them), the same for each. `scratch` is 33 floats of shared memory
// that nobody else uses; it may be used again at once.
static __device__ __forceinline__ float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    __syncthreads(); // whoever still reads the last result
    if (lane_id() == 0) scratch[warp_id()] = x;
    __syncthreads();
    if (warp_id() == 0) {
        x = warp_sum(lane_id() < blockDim.x / WARP_SIZE ? scratch[lane_id()] : 0.0f);
        if (lane_id() == 0) scratch[WARP_SIZE] = x;
    }
    __syncthreads();
    return scratch[WARP_SIZE];
}

// --- matrix units ---------------------------------------------------------------------------------------------------------------
//
// With g = lane / 4 and t = lane % 4, and 16-bit numbers:
// - A, 16 x 16: a[0] row g, columns 2t and 2t + 1; a[1] row g + 8; a[2] and a[3] the same rows, columns + 8.
// - B, 16 x 8: b[0] rows 2t and 2t + 1 of column g; b[1] rows + 8.
// - C and D, 16 x 8, f32: d[0], d[1] row g, columns 2t and 2t + 1; d[2], d[3] row g + 8.

#ifdef GLM_EMULATED
struct EmulatedMma {
    const u32* a;
    const u32* b;
    float* d;
};

// d += a * b of one warp; `DOT` multiplies what two words hold.
template <float (*DOT)(u32, u32, float)> static inline void emulated_mma_work(emulate::Meeting& meeting) {
    EmulatedMma* lanes[32];
    for (int lane = 0; lane < 32; lane++) lanes[lane] = (EmulatedMma*)meeting.brought[lane];
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8; column++) {
            float& d = lanes[row % 8 * 4 + column / 2]->d[row / 8 * 2 + column % 2];
            for (int word = 0; word < 8; word++) {
                const u32* a = lanes[row % 8 * 4 + word % 4]->a;
                const u32* b = lanes[column * 4 + word % 4]->b;
                d = DOT(a[word / 4 * 2 + row / 8], b[word / 4], d);
            }
        }
}
static inline float emulated_dot_bf16(u32 a, u32 b, float sum) {
    return sum + (bf16_low(a) * bf16_low(b) + bf16_high(a) * bf16_high(b));
}
static inline float emulated_dot_f16(u32 a, u32 b, float sum) {
    return sum + (f16_low(a) * f16_low(b) + f16_high(a) * f16_high(b));
}
#endif

// d += a * b, bf16.
static __device__ __forceinline__ void mma_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#ifdef GLM_EMULATED
    EmulatedMma brought = {a, b, d};
    emulate::running->meet("mma_bf16", FULL_MASK, &brought, emulated_mma_work<emulated_dot_bf16>);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// d += a * b, f16.
static __device__ __forceinline__ void mma_f16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#ifdef GLM_EMULATED
    EmulatedMma brought = {a, b, d};
    emulate::running->meet("mma_f16", FULL_MASK, &brought, emulated_mma_work<emulated_dot_f16>);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

#ifdef GLM_EMULATED
struct EmulatedLdmatrix {
    const void* row;
    u32* out;
};

template <bool TRANSPOSED> static inline void emulated_ldmatrix_work(emulate::Meeting& meeting) {
    EmulatedLdmatrix* lanes[32];
    for (int lane = 0; lane < 32; lane++) lanes[lane] = (EmulatedLdmatrix*)meeting.brought[lane];
    for (int matrix = 0; matrix < 4; matrix++)
        for (int lane = 0; lane < 32; lane++) {
            auto element = [&](int row, int column) { return ((const u16*)lanes[matrix * 8 + row]->row)[column]; };
            int g = lane / 4, t = lane % 4 * 2;
            u32 low = TRANSPOSED ? element(t, g) : element(g, t);
            u32 high = TRANSPOSED ? element(t + 1, g) : element(g, t + 1);
            lanes[lane]->out[matrix] = low | high << 16;
        }
}
#endif

// Four 8 x 8 matrices of 16-bit numbers from shared memory. Lane l gives the address of row l % 8 of matrix l / 8 (16 bytes,
// aligned); out[i] is this lane's part of matrix i: row l / 4, columns 2 * (l % 4) and one more.
static __device__ __forceinline__ void ldmatrix(u32 (&out)[4], const void* row) {
#ifdef GLM_EMULATED
    emulate::check_aligned(row, 16, "ldmatrix");
    EmulatedLdmatrix brought = {row, out};
    emulate::running->meet("ldmatrix", FULL_MASK, &brought, emulated_ldmatrix_work<false>);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

// As `ldmatrix`, each matrix transposed: this lane gets rows 2 * (l % 4) and one more of column l / 4.
static __device__ __forceinline__ void ldmatrix_transposed(u32 (&out)[4], const void* row) {
#ifdef GLM_EMULATED
    emulate::check_aligned(row, 16, "ldmatrix_transposed");
    EmulatedLdmatrix brought = {row, out};
    emulate::running->meet("ldmatrix_transposed", FULL_MASK, &brought, emulated_ldmatrix_work<true>);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

// --- packed arithmetic ------------------------------------------------------------------------------------------------------------

// sum + the dot product of four unsigned bytes with four signed ones.
static __device__ __forceinline__ int dot4_us(u32 a, u32 b, int sum) {
#ifdef GLM_EMULATED
    for (int i = 0; i < 32; i += 8) sum += int(u8(a >> i)) * int(i8(b >> i));
    return sum;
#else
    int out;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(sum));
    return out;
#endif
}

// Pairs of f16: differences, products and sums of products, each rounded once.
static __device__ __forceinline__ u32 h2_sub(u32 a, u32 b) {
#ifdef GLM_EMULATED
    return pack_f16(f16_low(a) - f16_low(b), f16_high(a) - f16_high(b));
#else
    u32 out;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
#endif
}

static __device__ __forceinline__ u32 h2_mul(u32 a, u32 b) {
#ifdef GLM_EMULATED
    return pack_f16(f16_low(a) * f16_low(b), f16_high(a) * f16_high(b));
#else
    u32 out;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
    return out;
#endif
}

static __device__ __forceinline__ u32 h2_fma(u32 a, u32 b, u32 c) {
#ifdef GLM_EMULATED
    return pack_f16(std::fma(f16_low(a), f16_low(b), f16_low(c)), std::fma(f16_high(a), f16_high(b), f16_high(c)));
#else
    u32 out;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
    return out;
#endif
}
