// out[t, r] = bias[r] + sum over c of x[t, c] * weight[r, c] for up to four tokens, weights of floats, products and sums in f32.
//
// A warp has R rows, so that what it reads of the activations, from the first-level cache, serves R times; weights pass that
// cache by. Rows of the weight are `padded` values, a multiple of 64, zeros behind the columns. Rows of the activations are a
// multiple of 8 (or else padded likewise, by `linear_pad`).

// What 16 bytes hold.
struct Bf16 {
    static constexpr u32 COUNT = 8;
    static __device__ __forceinline__ void widen(const uint4& x, float (&v)[8]) {
        v[0] = bf16_low(x.x), v[1] = bf16_high(x.x), v[2] = bf16_low(x.y), v[3] = bf16_high(x.y);
        v[4] = bf16_low(x.z), v[5] = bf16_high(x.z), v[6] = bf16_low(x.w), v[7] = bf16_high(x.w);
    }
};
struct F16 {
    static constexpr u32 COUNT = 8;
    static __device__ __forceinline__ void widen(const uint4& x, float (&v)[8]) {
        v[0] = f16_low(x.x), v[1] = f16_high(x.x), v[2] = f16_low(x.y), v[3] = f16_high(x.y);
        v[4] = f16_low(x.z), v[5] = f16_high(x.z), v[6] = f16_low(x.w), v[7] = f16_high(x.w);
    }
};
struct F32 {
    static constexpr u32 COUNT = 4;
    static __device__ __forceinline__ void widen(const uint4& x, float (&v)[4]) {
        v[0] = __uint_as_float(x.x), v[1] = __uint_as_float(x.y), v[2] = __uint_as_float(x.z), v[3] = __uint_as_float(x.w);
    }
};

// out[token, padded] of x[token, columns], zeros behind the columns. Grid: (tokens, padded / 256); 256 threads.
extern "C" __global__ void __launch_bounds__(256, 6) linear_pad(float* out, const float* x, u32 columns, u32 padded) {
    start_next_kernel();
    wait_for_previous_kernel();
    u32 column = blockIdx.y * 256 + threadIdx.x;
    u64 token = blockIdx.x;
    if (column < padded) out[token * padded + column] = column < columns ? x[token * columns + column] : 0.0f;
}
GLM_KERNEL(linear_pad)

// The sums over the warp of N values (a power of two up to 32) with about N shuffles: lane l gets that of value l * N / 32.
template <u32 N> static __device__ __forceinline__ float warp_sums(float (&values)[N]) {
    u32 lane = lane_id();
    u32 bit = WARP_SIZE / 2;
#pragma unroll
    for (u32 n = N / 2; n > 0; n /= 2, bit /= 2) { // halves are exchanged: each keeps one, and adds the other's
#pragma unroll
        for (u32 i = 0; i < n; i++) {
            float mine = lane & bit ? values[i + n] : values[i], yours = lane & bit ? values[i] : values[i + n];
            values[i] = mine + __shfl_xor_sync(FULL_MASK, yours, bit);
        }
    }
#pragma unroll
    for (; bit > 0; bit /= 2) values[0] += __shfl_xor_sync(FULL_MASK, values[0], bit);
    return values[0];
}

// A warp's rows: see the kernels.
template <class E, u32 T, u32 R, u32 UNROLL>
static __device__ __forceinline__ void float_gemv(float* out, const u8* weights, const float* x, const float* bias, u32 rows,
                                                  u32 columns, u32 padded, u32 stride, u32 tokens) {
    constexpr u32 COUNT = E::COUNT, STEP = WARP_SIZE * COUNT;
    u32 first_row = (blockIdx.x * 8 + warp_id()) * R, first_token = blockIdx.y * T, own = lane_id() * COUNT;
    if (first_row >= rows) {
        wait_for_previous_kernel(); // the next kernel counts on all of this one
        return;
    }
    u64 row_bytes = (u64)padded * (16 / COUNT);
    const u8* row[R];
#pragma unroll
    for (u32 r = 0; r < R; r++) row[r] = weights + min(first_row + r, rows - 1) * row_bytes + lane_id() * 16;
    start_next_kernel();
#pragma unroll
    for (u32 r = 0; r < R; r++)
        if (lane_id() * 128 < row_bytes) prefetch_l2(row[r] + lane_id() * 112); // 4 KiB of each row, before activations are there
    wait_for_previous_kernel();

    float sums[R * T] = {};
#pragma unroll 1
    for (u32 base = 0; base < padded; base += UNROLL * STEP) {
        uint4 w[UNROLL][R];
#pragma unroll
        for (u32 i = 0; i < UNROLL; i++) {
            // Behind the end of a row its last 16 bytes are read again, and not used.
            u32 at = min(base + i * STEP + own, padded - COUNT) - own;
#pragma unroll
            for (u32 r = 0; r < R; r++) w[i][r] = load16_once(row[r] + (long long)(int)at * (int)(16 / COUNT));
        }
#pragma unroll
        for (u32 i = 0; i < UNROLL; i++) {
            u32 column = base + i * STEP + own;
            if (column >= columns) continue;
            float v[R][COUNT];
#pragma unroll
            for (u32 r = 0; r < R; r++) E::widen(w[i][r], v[r]);
#pragma unroll
            for (u32 token = 0; token < T; token++) {
                const float* from = x + (u64)min(first_token + token, tokens - 1) * columns + column;
                float a[COUNT];
#pragma unroll
                for (u32 c = 0; c < COUNT; c += 4) {
                    float4 four = *(const float4*)(from + c);
                    a[c] = four.x, a[c + 1] = four.y, a[c + 2] = four.z, a[c + 3] = four.w;
                }
#pragma unroll
                for (u32 r = 0; r < R; r++)
#pragma unroll
                    for (u32 c = 0; c < COUNT; c++) sums[token * R + r] = __fmaf_rn(v[r][c], a[c], sums[token * R + r]);
            }
        }
    }
    constexpr u32 SHARE = WARP_SIZE / (R * T); // lanes with the same sum
    float sum = warp_sums(sums);
    u32 token = first_token + lane_id() / SHARE / R, to = first_row + lane_id() / SHARE % R;
    if (lane_id() % SHARE == 0 && to < rows && token < tokens) out[(u64)token * stride + to] = sum + (bias ? bias[to] : 0.0f);
}

// Grid: (rows / (8 * R), runs of T tokens); 256 threads.
#define FLOAT_GEMV(format, Element, T, R, UNROLL, BLOCKS)                                                                          \
    extern "C" __global__ void __launch_bounds__(256, BLOCKS) linear_gemv_##format##_##T(                                        \
        float* out, const u8* weights, const float* x, const float* bias, u32 rows, u32 columns, u32 padded, u32 stride,         \
        u32 tokens) {                                                                                                            \
        float_gemv<Element, T, R, UNROLL>(out, weights, x, bias, rows, columns, padded, stride, tokens);                         \
    }                                                                                                                            \
    GLM_KERNEL(linear_gemv_##format##_##T)
// Eight 16-byte loads of weights are under way in each thread.
#define FLOAT_GEMVS(format, Element)                                                                                             \
    FLOAT_GEMV(format, Element, 1, 2, 4, 3)                                                                                      \
    FLOAT_GEMV(format, Element, 2, 2, 4, 3)                                                                                      \
    FLOAT_GEMV(format, Element, 4, 4, 2, 2)

FLOAT_GEMVS(bf16, Bf16)
FLOAT_GEMVS(f16, F16)
FLOAT_GEMVS(f32, F32)
