// out[i, c] = weight[ids[i], c]: rows of a weight as f32, for instance the embeddings of tokens. The values are those of
// `quant::dequantize`, to the bit: products and differences are not fused.

// Eight columns a thread. Grid: (rows, columns / 2048); 256 threads. `padded` columns lie in a row of the weight.
template <class F>
static __device__ __forceinline__ void block_rows(float* out, const u8* weights, const u32* ids, u32 first, u32 rows, u32 columns,
                                                  u32 padded) {
    start_next_kernel();
    wait_for_previous_kernel();
    u32 eight = blockIdx.y * 256 + threadIdx.x, row = ids[blockIdx.x] - first;
    if (eight * 8 >= columns || row >= rows) return; // a row of another segment
    u32 chunk = eight / 8, unit = eight / 4 % 2, t = eight % 4, half = row % PANEL_ROWS / 8;
    typename F::Raw raw;
    F::load(raw, F::place(weights, rows, row / PANEL_ROWS, padded / CHUNK, row % 8 * 4 + t), chunk);
    u32 pairs[4];
    F::code_pairs(raw, half, unit, pairs);
    float scale = F::scale(raw, half, unit, t), minimum = F::minimum(raw, half, unit, t);
    float* to = out + (u64)blockIdx.x * columns + eight * 8;
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        float code = i % 2 ? f16_high(pairs[i / 2]) : f16_low(pairs[i / 2]), value = __fmul_rn(scale, code);
        to[i] = F::HAS_MINIMUM ? __fadd_rn(value, -minimum) : value;
    }
}

#define ROWS(format, Format)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256, 6) linear_rows_##format(                                                   \
        float* out, const u8* weights, const u32* ids, u32 first, u32 rows, u32 columns, u32 padded) {                           \
        block_rows<Format>(out, weights, ids, first, rows, columns, padded);                                                     \
    }                                                                                                                            \
    GLM_KERNEL(linear_rows_##format)

ROWS(q4_0, Q4_0)
ROWS(q4_1, Q4_1)
ROWS(q5_0, Q5_0)
ROWS(q5_1, Q5_1)
ROWS(q8_0, Q8_0)
ROWS(q2_k, Q2_K)
ROWS(q3_k, Q3_K)
ROWS(q4_k, Q4_K)
ROWS(q5_k, Q5_K)
ROWS(q6_k, Q6_K)
ROWS(iq4_nl, IQ4_NL)
ROWS(iq4_xs, IQ4_XS)
ROWS(int4, INT4)
ROWS(fp8, FP8)

template <class T, float (*WIDEN)(T)>
static __device__ __forceinline__ void float_rows(float* out, const u8* weights, const u32* ids, u32 first, u32 rows, u32 columns,
                                                  u32 padded) {
    start_next_kernel();
    wait_for_previous_kernel();
    u32 row = ids[blockIdx.x] - first;
    if (row >= rows) return;
    const T* from = (const T*)weights + (u64)row * padded;
    float* to = out + (u64)blockIdx.x * columns;
    for (u32 column = blockIdx.y * 2048 + threadIdx.x; column < min(columns, blockIdx.y * 2048 + 2048); column += 256)
        to[column] = WIDEN(from[column]);
}
static __device__ __forceinline__ float same(float x) { return x; }

#define FLOAT_ROWS(format, Type, widen)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256, 6) linear_rows_##format(                                                   \
        float* out, const u8* weights, const u32* ids, u32 first, u32 rows, u32 columns, u32 padded) {                           \
        float_rows<Type, widen>(out, weights, ids, first, rows, columns, padded);                                                \
    }                                                                                                                            \
    GLM_KERNEL(linear_rows_##format)

FLOAT_ROWS(bf16, u16, bf16_to_f32)
FLOAT_ROWS(f16, u16, f16_to_f32)
FLOAT_ROWS(f32, float, same)
