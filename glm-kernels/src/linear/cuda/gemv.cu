// out[t, r] = bias[r] + sum over c of x[t, c] * weight[r, c] for up to eight tokens, weights in block formats.
//
// Activations are rounded to 8 bits in blocks of 32, as on the CPU, and products are `dp4a`; only 8-bit floats meet them as they
// are, in f32. A block of threads works on one
// panel, its eight warps on eight runs of columns; what they have is added in their order, so a result does not depend on
// scheduling. Weights are read once, past the first-level cache.

#define WARPS 8u
#define ONES 0x01010101u
// 1.5 * 2^23: an integer below 2^22 added to these bits is added to the number.
#define ROUNDING 12582912.0f
#define ROUNDING_BITS 0x4b400000

// Rounds eight columns of a unit, by four lanes that hold a unit together: codes in byte form.
static __device__ __forceinline__ uint2 quantize(const float* x, u32 unit, u32 t, u32 columns, float& scale) {
    float4 v[2] = {};
    if (unit * UNIT < columns) {
        const float* from = x + unit * UNIT + 8 * t;
        v[0] = *(const float4*)from, v[1] = *(const float4*)(from + 4);
    }
    const float values[8] = {v[0].x, v[0].y, v[0].z, v[0].w, v[1].x, v[1].y, v[1].z, v[1].w};
    // Magnitudes compare as integers, and NaN is the largest: it reaches the scale, and so the result.
    u32 largest = 0;
#pragma unroll
    for (u32 i = 0; i < 8; i++) largest = max(largest, __float_as_uint(values[i]) & 0x7fffffffu);
    largest = max(largest, __shfl_xor_sync(FULL_MASK, largest, 1));
    largest = max(largest, __shfl_xor_sync(FULL_MASK, largest, 2));
    scale = __uint_as_float(largest) / 127.0f;
    float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    u32 code[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++) code[i] = __float_as_uint(__fadd_rn(__fmul_rn(values[i], inverse), ROUNDING)) & 0xffu;
    return make_uint2(code[0] | code[4] << 8 | code[1] << 16 | code[5] << 24, code[2] | code[6] << 8 | code[3] << 16 | code[7] << 24);
}

// codes[token, unit, t] and scales[token, unit] of x[token, columns]. Grid: (tokens, units / 64); 256 threads.
extern "C" __global__ void __launch_bounds__(256, 6)
linear_quantize(u8* codes, float* scales, const float* x, u32 columns, u32 chunks) {
    start_next_kernel();
    wait_for_previous_kernel();
    u32 unit = blockIdx.y * 64 + threadIdx.x / 4, t = threadIdx.x % 4, units = 2 * chunks;
    u64 token = blockIdx.x;
    float scale;
    uint2 rounded = quantize(x + token * columns, unit, t, columns, scale);
    if (unit >= units) return;
    *(uint2*)(codes + (token * units + unit) * UNIT + 8 * t) = rounded;
    if (t == 0) scales[token * units + unit] = scale;
}
GLM_KERNEL(linear_quantize)

// Adds the products of a chunk. `codes` and `scales` are those of the chunk, one pointer for each token.
template <class F, u32 T>
static __device__ __forceinline__ void add_products(const typename F::Raw& raw, const u8* (&codes)[T], const float* (&scales)[T],
                                                    u32 chunk, u32 t, float (&sums)[2][T]) {
#pragma unroll
    for (u32 unit = 0; unit < 2; unit++) {
        u32 weights[2][2];
        float scale[2], minimum[2];
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            F::bytes(raw, half, unit, weights[half]);
            scale[half] = F::scale(raw, half, unit, t);
            minimum[half] = F::minimum(raw, half, unit, t);
        }
#pragma unroll
        for (u32 token = 0; token < T; token++) {
            uint2 x = *(const uint2*)(codes[token] + chunk * CHUNK + unit * UNIT + 8 * t);
            float x_scale = scales[token][2 * chunk + unit];
            int sum = dot4_us(ONES, x.x, dot4_us(ONES, x.y, 0));
            int start = ROUNDING_BITS - (int)F::ZERO * sum;
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                int product = dot4_us(weights[half][0], x.x, dot4_us(weights[half][1], x.y, start));
                float exact = __int_as_float(product) - ROUNDING;
                sums[half][token] += scale[half] * x_scale * exact;
                if constexpr (F::HAS_MINIMUM) sums[half][token] -= minimum[half] * x_scale * (float)sum;
            }
        }
    }
}

// The same for floats: `x` are the tokens' rows.
template <class F, u32 T>
static __device__ __forceinline__ void add_float_products(const typename F::Raw& raw, const float* (&x)[T], u32 columns, u32 chunk,
                                                          u32 t, float (&sums)[2][T]) {
#pragma unroll
    for (u32 unit = 0; unit < 2; unit++) {
        u32 column = chunk * CHUNK + unit * UNIT + 8 * t;
        if (column >= columns) continue;
        u32 pairs[2][4];
        float scale[2];
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            F::code_pairs(raw, half, unit, pairs[half]);
            scale[half] = F::scale(raw, half, unit, t);
        }
#pragma unroll
        for (u32 token = 0; token < T; token++) {
            float4 a = *(const float4*)(x[token] + column), b = *(const float4*)(x[token] + column + 4);
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const u32(&w)[4] = pairs[half];
                float sum = f16_low(w[0]) * a.x + f16_high(w[0]) * a.y + f16_low(w[1]) * a.z + f16_high(w[1]) * a.w;
                sum += f16_low(w[2]) * b.x + f16_high(w[2]) * b.y + f16_low(w[3]) * b.z + f16_high(w[3]) * b.w;
                sums[half][token] += scale[half] * sum;
            }
        }
    }
}

// A block's panel: see the kernels.
template <class F, u32 T>
static __device__ __forceinline__ void gemv(float* out, const u8* weights, const u8* codes, const float* scales, const float* x,
                                            const float* bias, u32 rows, u32 columns, u32 chunks, u32 stride, u32 tokens) {
    constexpr u32 UNROLL = T == 1 ? 4 : 2; // with T 1, and 32 warps or so, 64 KiB are under way on a multiprocessor
    __shared__ float partial[WARPS][T][PANEL_ROWS];
    u32 lane = lane_id(), warp = warp_id(), t = lane % 4;
    u32 each = ceil_div(chunks, WARPS), first = min(warp * each, chunks), last = min(first + each, chunks);
    typename F::Place place = F::place(weights, rows, blockIdx.x, chunks, lane);
    start_next_kernel();
    F::prefetch(weights, rows, blockIdx.x, chunks, first, last, lane); // weights do not wait for the kernel before
    wait_for_previous_kernel();

    const u8* x_codes[T];
    const float* x_scales[T];
    const float* x_rows[T];
    if constexpr (!F::INTEGER) {
#pragma unroll
        for (u32 token = 0; token < T; token++) x_rows[token] = x + (u64)min(blockIdx.y * T + token, tokens - 1) * columns;
    } else if constexpr (T == 1) { // each warp rounds its own columns
        u8* own = dynamic_shared();
        float* own_scales = (float*)(own + chunks * CHUNK);
#pragma unroll 1
        for (u32 unit = 2 * first + lane / 4; unit < 2 * last + lane / 4; unit += 8) { // the same number of rounds for each lane
            float scale;
            uint2 rounded = quantize(x + (u64)blockIdx.y * columns, unit, t, columns, scale);
            if (unit >= 2 * last) continue;
            *(uint2*)(own + unit * UNIT + 8 * t) = rounded;
            if (t == 0) own_scales[unit] = scale;
        }
        __syncwarp();
        x_codes[0] = own, x_scales[0] = own_scales;
    } else {
#pragma unroll
        for (u32 token = 0; token < T; token++) {
            u64 row = min(blockIdx.y * T + token, tokens - 1);
            x_codes[token] = codes + row * chunks * CHUNK;
            x_scales[token] = scales + row * chunks * 2;
        }
    }

    float sums[2][T] = {};
#pragma unroll 1
    for (u32 chunk = first; chunk < last; chunk += UNROLL) {
        typename F::Raw raw[UNROLL];
#pragma unroll
        for (u32 i = 0; i < UNROLL; i++) F::load(raw[i], place, min(chunk + i, last - 1));
#pragma unroll
        for (u32 i = 0; i < UNROLL; i++)
            if (chunk + i < last) {
                if constexpr (F::INTEGER) add_products<F, T>(raw[i], x_codes, x_scales, chunk + i, t, sums);
                else add_float_products<F, T>(raw[i], x_rows, columns, chunk + i, t, sums);
            }
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++)
#pragma unroll
        for (u32 token = 0; token < T; token++) {
            float sum = sums[half][token];
            sum += __shfl_xor_sync(FULL_MASK, sum, 1);
            sum += __shfl_xor_sync(FULL_MASK, sum, 2);
            if (t == 0) partial[warp][token][half * 8 + lane / 4] = sum;
        }
    __syncthreads();
    u32 token = threadIdx.x / PANEL_ROWS, row = blockIdx.x * PANEL_ROWS + threadIdx.x % PANEL_ROWS;
    if (token >= T || blockIdx.y * T + token >= tokens || row >= rows) return;
    float sum = bias ? bias[row] : 0.0f;
#pragma unroll
    for (u32 i = 0; i < WARPS; i++) sum += partial[i][token][threadIdx.x % PANEL_ROWS];
    out[(u64)(blockIdx.y * T + token) * stride + row] = sum;
}

// Grid: (panels, runs of T tokens); 256 threads. One token, and weights of integers: dynamic shared memory for its codes, 72 bytes
// a chunk. More: `codes` and `scales` of linear_quantize. Weights of floats take `x` alone.
#define GEMV(format, Format, T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, T == 1 ? 3 : 2) linear_gemv_##format##_##T(                                \
        float* out, const u8* weights, const u8* codes, const float* scales, const float* x, const float* bias, u32 rows,        \
        u32 columns, u32 chunks, u32 stride, u32 tokens) {                                                                       \
        gemv<Format, T>(out, weights, codes, scales, x, bias, rows, columns, chunks, stride, tokens);                            \
    }                                                                                                                            \
    GLM_KERNEL(linear_gemv_##format##_##T)
// Formats that many models are in have three kernels, the others two.
#define GEMVS(format, Format) GEMV(format, Format, 1) GEMV(format, Format, 4)

GEMVS(q4_0, Q4_0)
GEMVS(q4_1, Q4_1)
GEMVS(q5_0, Q5_0)
GEMVS(q5_1, Q5_1)
GEMVS(q8_0, Q8_0)
GEMV(q8_0, Q8_0, 8)
GEMVS(q2_k, Q2_K)
GEMVS(q3_k, Q3_K)
GEMVS(q4_k, Q4_K)
GEMV(q4_k, Q4_K, 8)
GEMVS(q5_k, Q5_K)
GEMVS(q6_k, Q6_K)
GEMV(q6_k, Q6_K, 8)
GEMVS(iq4_nl, IQ4_NL)
GEMVS(iq4_xs, IQ4_XS)
GEMVS(int4, INT4)
GEMV(int4, INT4, 8)
GEMVS(fp8, FP8)
