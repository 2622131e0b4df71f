// out[t, r] = bias[r] + sum over c of x[t, c] * weight[r, c] for many tokens, on the tensor cores.
//
// WARPS warps have MT panels of 16 rows each and all of them the same N tokens. Weights go from memory to registers, DEPTH chunks
// of 64 columns ahead, and become fragments there: no warp unpacks what another has unpacked. Activations, rounded to 16 bits
// before, come to shared memory by asynchronous copies, STAGES chunks in a ring, one barrier a chunk. Where tiles are fewer than
// multiprocessors, gridDim.z runs of columns are summed by `linear_add_splits`, in their order.
//
// bf16 weights meet bf16 activations. All others meet f16, which has eight times the precision: each token is scaled by a power
// of two so that its largest value is below 2^15, which leaves 29 binades of full precision below it.

#define STAGES 4u

// Sixteen-bit floats, row-major, rows of `chunks` * 64.
template <bool HALF_> struct Floats {
    static constexpr bool HALF = HALF_;
    struct Raw {
        uint4 eight[2][2]; // [half][unit]
    };
    struct Place {
        const u8* weights;
        u32 rows[2], chunks, lane;
    };
    static __device__ __forceinline__ Place place(const u8* weights, u32 rows, u32 panel, u32 chunks, u32 lane) {
        u32 row = panel * PANEL_ROWS + lane / 4;
        return {weights, {min(row, rows - 1), min(row + 8, rows - 1)}, chunks, lane};
    }
    static __device__ __forceinline__ Place forget_planes(Place at) {
        at.chunks = forget(at.chunks);
        return at;
    }
    static __device__ __forceinline__ void load(Raw& raw, const Place& at, u32 chunk) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u8* from = at.weights + ((u64)at.rows[half] * at.chunks + chunk) * (2 * CHUNK) + at.lane % 4 * 16;
#pragma unroll
            for (u32 unit = 0; unit < 2; unit++) raw.eight[half][unit] = load16_once(from + unit * (2 * UNIT));
        }
    }
    static __device__ __forceinline__ void next_unit(Raw& raw) {
        raw.eight[0][0] = raw.eight[0][1], raw.eight[1][0] = raw.eight[1][1];
    }
    static __device__ __forceinline__ void fragments(const Raw& raw, u32, u32 (&a)[2][4]) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const uint4& x = raw.eight[half][0];
            a[0][half] = x.x, a[0][half + 2] = x.y, a[1][half] = x.z, a[1][half + 2] = x.w;
        }
    }
};
typedef Floats<false> BF16;
typedef Floats<true> F16;

// Eight of the `columns` values of a row from `column` on, zeros behind its end.
static __device__ __forceinline__ void row_values(const float* row, u32 column, u32 columns, float (&values)[8]) {
    if (columns % 4 == 0 && column + 8 <= columns) {
        float4 low = *(const float4*)(row + column), high = *(const float4*)(row + column + 4);
        values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
        values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; i++) values[i] = column + i < columns ? row[column + i] : 0.0f;
    }
}

// out[token, padded] bf16 of x[token, columns]. Grid: (tokens, padded / 2048); 256 threads.
extern "C" __global__ void __launch_bounds__(256, 6) linear_round_bf16(u16* out, const float* x, u32 columns, u32 padded) {
    start_next_kernel();
    wait_for_previous_kernel();
    u32 column = (blockIdx.y * 256 + threadIdx.x) * 8;
    if (column >= padded) return;
    u64 token = blockIdx.x;
    float v[8];
    row_values(x + token * columns, column, columns, v);
    store16(out + token * padded + column,
            make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])));
}
GLM_KERNEL(linear_round_bf16)

// out[token, padded] f16 of x[token, columns] times a power of two, whose inverse becomes scales[token]. Grid: tokens; 256 threads.
extern "C" __global__ void __launch_bounds__(256, 6)
linear_round_f16(u16* out, float* scales, const float* x, u32 columns, u32 padded) {
    __shared__ u32 largest_of[8];
    start_next_kernel();
    wait_for_previous_kernel();
    u64 token = blockIdx.x;
    const float* row = x + token * columns;
    float v[8];
    float most = 0.0f;
    for (u32 column = threadIdx.x * 8; column < padded; column += 2048) {
        row_values(row, column, columns, v);
#pragma unroll
        for (u32 i = 0; i < 8; i++) most = fmaxf(most, fabsf(v[i]));
    }
    most = warp_max(most);
    if (lane_id() == 0) largest_of[warp_id()] = __float_as_uint(most);
    __syncthreads();
    u32 largest = 0;
#pragma unroll
    for (u32 i = 0; i < 8; i++) largest = max(largest, largest_of[i]);
    // The exponent of the scale, biased: 2^14 / 2^e. A row of zeros, or of the smallest numbers, stays in range.
    u32 exponent = min(127 + 14 + 127 - (largest >> 23), 240u);
    float scale = __uint_as_float(exponent << 23);
    if (threadIdx.x == 0) scales[token] = __uint_as_float((254 - exponent) << 23);
    for (u32 column = threadIdx.x * 8; column < padded; column += 2048) {
        row_values(row, column, columns, v);
#pragma unroll
        for (u32 i = 0; i < 8; i++) v[i] *= scale;
        store16(out + token * padded + column,
                make_uint4(pack_f16(v[0], v[1]), pack_f16(v[2], v[3]), pack_f16(v[4], v[5]), pack_f16(v[6], v[7])));
    }
}
GLM_KERNEL(linear_round_f16)

// Where 16 bytes of a token's chunk lie in shared memory: eight lanes that read two rows meet all banks.
static __device__ __forceinline__ u32 slot(u32 token, u32 eighth) { return token * 8 + (eighth ^ (token & 1) << 2); }

// The first panel and the first token of a block. Blocks that run together share rows and tokens: groups of eight tiles of rows
// go through all tokens.
template <u32 ROWS, u32 N>
static __device__ __forceinline__ void tile(u32 rows, u32 tokens, u32& first_panel, u32& first_token) {
    constexpr u32 GROUP = 8;
    u32 row_tiles = ceil_div(rows, ROWS), token_tiles = ceil_div(tokens, N);
    u32 group = blockIdx.x / (GROUP * token_tiles), inside = blockIdx.x % (GROUP * token_tiles);
    u32 height = min(GROUP, row_tiles - group * GROUP);
    first_panel = (group * GROUP + inside % height) * (ROWS / PANEL_ROWS);
    first_token = inside / height * N;
}

// A block's tile: see the kernels.
template <class F, u32 WARPS, u32 MT, u32 N, u32 DEPTH>
static __device__ __forceinline__ void gemm(float* out, const u8* weights, const u16* x, const float* x_scales, const float* bias,
                                            u32 rows, u32 tokens, u32 chunks, u32 chunks_per_split, u64 split_stride, u32 stride) {
    // Unrolled, the compiler takes fragments of the tokens ahead over both units, where it has registers for that: not with 128 sums.
    constexpr int UNROLL = N == 128 ? 1 : 2;
    constexpr u32 ROWS = WARPS * MT * PANEL_ROWS, TOKENS_AT_ONCE = WARPS * WARP_SIZE / 8;
    uint4* ring = (uint4*)dynamic_shared(); // [STAGES][N][8]
    u32 lane = lane_id(), g = lane / 4, t = lane % 4;

    u32 first_panel, first_token;
    tile<ROWS, N>(rows, tokens, first_panel, first_token);
    first_panel += warp_id() * MT;
    u32 first = blockIdx.z * chunks_per_split, last = min(first + chunks_per_split, chunks);

    typename F::Place place[MT];
    typename F::Raw raw[DEPTH][MT];
#pragma unroll
    for (u32 m = 0; m < MT; m++) {
        place[m] = F::place(weights, rows, first_panel + m, chunks, lane);
#pragma unroll
        for (u32 d = 0; d < DEPTH; d++) F::load(raw[d][m], place[m], min(first + d, last - 1));
    }
    start_next_kernel();
    wait_for_previous_kernel();

    // This thread's 16 bytes of every TOKENS_AT_ONCE-th token. Addresses behind the last token are formed but not read.
    u32 own_token = threadIdx.x / 8, eighth = threadIdx.x % 8;
    const u16* own = x + (u64)(first_token + own_token) * chunks * CHUNK + 8 * eighth;
    u32 own_slot = slot(own_token, eighth), tokens_left = max(tokens - first_token, own_token) - own_token;
    auto fetch = [&](u32 chunk) {
        if (chunk < last) {
            u32 row = forget(chunks);
#pragma unroll
            for (u32 i = 0; i < N / TOKENS_AT_ONCE; i++)
                cp_async16(ring + chunk % STAGES * (N * 8) + own_slot + i * (TOKENS_AT_ONCE * 8),
                           own + (i * TOKENS_AT_ONCE * row + chunk) * (u64)CHUNK, i * TOKENS_AT_ONCE < tokens_left ? 16 : 0);
        }
        cp_async_commit(); // also where there is nothing left, so that groups can be counted
    };
#pragma unroll
    for (u32 i = 0; i < STAGES - 1; i++) fetch(first + i);

    float sums[MT][N / 8][4] = {};
#pragma unroll 1
    for (u32 base = first; base < last; base += DEPTH)
#pragma unroll
        for (u32 d = 0; d < DEPTH; d++) {
            u32 chunk = base + d;
            if (chunk >= last) break;
            cp_async_wait<STAGES - 2>();
            __syncthreads(); // the chunk is there for all, and nobody reads the one before it any more
            fetch(chunk + STAGES - 1);
            const uint4* there = ring + chunk % STAGES * (N * 8);
#pragma unroll UNROLL
            for (u32 unit = 0; unit < 2; unit++) {
                u32 a[MT][2][4];
#pragma unroll
                for (u32 m = 0; m < MT; m++) {
                    F::fragments(raw[d][m], t, a[m]);
                    if (unit == 0) F::next_unit(raw[d][m]);
                    else F::load(raw[d][m], F::forget_planes(place[m]), min(chunk + DEPTH, last - 1));
                }
#pragma unroll
                for (u32 n = 0; n < N / 8; n++) {
                    uint4 b = there[slot(8 * n + g, unit * 4 + t)];
                    const u32 low[2] = {b.x, b.y}, high[2] = {b.z, b.w};
#pragma unroll
                    for (u32 m = 0; m < MT; m++) {
                        if constexpr (F::HALF) {
                            mma_f16(sums[m][n], a[m][0], low);
                            mma_f16(sums[m][n], a[m][1], high);
                        } else {
                            mma_bf16(sums[m][n], a[m][0], low);
                            mma_bf16(sums[m][n], a[m][1], high);
                        }
                    }
                }
            }
        }

    tile<ROWS, N>(rows, forget(tokens), first_panel, first_token); // again: kept, it would cost registers that sums need
    u32 first_row = (first_panel + warp_id() * MT) * PANEL_ROWS + g;
    float offset[MT][2];
#pragma unroll
    for (u32 m = 0; m < MT; m++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 row = first_row + m * PANEL_ROWS + half * 8;
            offset[m][half] = bias && row < rows ? bias[row] : 0.0f;
        }
    out += blockIdx.z * split_stride + first_row;
#pragma unroll
    for (u32 n = 0; n < N / 8; n++)
#pragma unroll
        for (u32 j = 0; j < 2; j++) {
            u32 token = first_token + 8 * n + 2 * t + j;
            if (token >= tokens) continue;
            float scale = F::HALF ? x_scales[token] : 1.0f;
            float* to = out + (u64)token * stride;
#pragma unroll
            for (u32 m = 0; m < MT; m++)
#pragma unroll
                for (u32 half = 0; half < 2; half++)
                    if (first_row + m * PANEL_ROWS + half * 8 < rows)
                        to[m * PANEL_ROWS + half * 8] = sums[m][n][2 * half + j] * scale + offset[m][half];
        }
}

// out[token, row] = bias[row] + partial[0, token, row] + partial[1, token, row] + ... Grid: (tokens, rows / 256); 256 threads.
extern "C" __global__ void __launch_bounds__(256, 6)
linear_add_splits(float* out, const float* partial, const float* bias, u32 rows, u32 tokens, u32 splits, u32 stride) {
    start_next_kernel();
    wait_for_previous_kernel();
    u32 row = blockIdx.y * 256 + threadIdx.x;
    if (row >= rows) return;
    u64 token = blockIdx.x;
    float sum = bias ? bias[row] : 0.0f;
    for (u32 split = 0; split < splits; split++) sum += partial[(split * (u64)tokens + token) * rows + row];
    out[token * stride + row] = sum;
}
GLM_KERNEL(linear_add_splits)

// Grid: (tiles of WARPS * MT * 16 rows times tiles of N tokens, 1, splits); WARPS * 32 threads; N * 512 bytes of dynamic shared
// memory. `x` and `x_scales` are those of linear_round_*; with more than one split `out` is [split, token, row], split_stride
// apart, without bias.
#define GEMM(format, Format, N, WARPS, MT, DEPTH, BLOCKS)                                                                        \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS) linear_gemm_##format##_##N(                                 \
        float* out, const u8* weights, const u16* x, const float* x_scales, const float* bias, u32 rows, u32 tokens, u32 chunks, \
        u32 chunks_per_split, u64 split_stride, u32 stride) {                                                                    \
        gemm<Format, WARPS, MT, N, DEPTH>(out, weights, x, x_scales, bias, rows, tokens, chunks, chunks_per_split, split_stride, \
                                          stride);                                                                               \
    }                                                                                                                            \
    GLM_KERNEL(linear_gemm_##format##_##N)
// Up to 16 tokens, memory is the limit, so few rows a block and many chunks under way; up to 64, what the tokens take of the
// second-level cache is, so more rows; above, the tensor cores. A chunk of floats takes up to four times the registers of codes.
#define GEMM_64(format, Format, DEPTH) GEMM(format, Format, 64, 4, 2, DEPTH, 2)
#define FLOAT_GEMMS(format, Format) GEMM(format, Format, 16, 4, 1, 2, 3) GEMM_64(format, Format, 1) GEMM(format, Format, 128, 8, 2, 1, 1)
#define BLOCK_GEMMS(format, Format) GEMM(format, Format, 16, 4, 1, 4, 3) GEMM_64(format, Format, 2) GEMM(format, Format, 128, 8, 2, 1, 1)

FLOAT_GEMMS(bf16, BF16)
FLOAT_GEMMS(f16, F16)
BLOCK_GEMMS(q8_0, Q8_0)
BLOCK_GEMMS(q4_k, Q4_K)
BLOCK_GEMMS(q6_k, Q6_K)
BLOCK_GEMMS(int4, INT4)
BLOCK_GEMMS(fp8, FP8)
// Formats of few models have one kernel.
GEMM_64(q4_0, Q4_0, 2)
GEMM_64(q4_1, Q4_1, 2)
GEMM_64(q5_0, Q5_0, 2)
GEMM_64(q5_1, Q5_1, 2)
GEMM_64(q2_k, Q2_K, 2)
GEMM_64(q3_k, Q3_K, 2)
GEMM_64(q5_k, Q5_K, 2)
GEMM_64(iq4_nl, IQ4_NL, 2)
GEMM_64(iq4_xs, IQ4_XS, 2)
