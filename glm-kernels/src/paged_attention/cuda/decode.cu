// Attention of few queries over long contexts: a context is shared by several blocks (Flash-Decoding, Dao et al. 2023).
//
// A block takes up to 16 rows (query heads of a KV head) of a sequence and one piece of its context; its four warps take 16
// positions each in turn, every one with its own softmax, and merge in the end. Pieces are merged by the second kernel. So many
// pieces are made that the device is full, however short the contexts are: a piece is a multiple of 64 positions, and its length
// follows from the number of pieces and the sequence's own context, so a captured launch stays right when contexts grow.
//
// Nothing goes through shared memory but the queries. Tensor cores want keys and values in registers in an order that is free in
// one respect: along the summed dimension, both factors may be permuted alike. So a lane takes 16 bytes of a key at once (8
// elements of the head, which stand for what four fragments would take from different places), and of values rows 2t, 2t + 1,
// 2t + 8, 2t + 9, whose halves it zips. The next keys are asked for as soon as the last are used up, before the softmax, and the
// next values before the next scores, so loads are always under way.
//
// Queries and weights are the sum of two 16-bit numbers each, which makes the products as exact as sums in f32 are; the tensor
// cores have the time, since reading takes longer.
//
// Bytes: context * KVH * 2 * D * sizeof(T), read once per 16 rows. Operations: 8 * 16 rows * D per position and KV head, which is
// 64 instructions m16n8k16 for 8 KiB (D = 128, 16 bits): a quarter of the time that the bytes take on an H100.

#define WARPS 4u
#define ROWS 16u
#define STEP 16u             // positions of a warp at a time
#define PIECE (WARPS * STEP) // a piece of a context is a multiple of it

// How long the pieces of a context are.
static __device__ __forceinline__ u32 piece_len(u32 context_len, u32 pieces) {
    return ceil_div(ceil_div(context_len, pieces), PIECE) * PIECE;
}

// Floats of a piece's result: [16, D] sums, then 16 maxima, then 16 sums of weights.
static __device__ __forceinline__ u64 partial_len(u32 head_dim) { return ROWS * (head_dim + 2); }

// x as the sum of two pairs of 16-bit numbers.
template <class T> static __device__ __forceinline__ uint2 split(float low, float high) {
    u32 first = Kv<T>::pack(low, high);
    return make_uint2(first, Kv<T>::pack(low - Kv<T>::low(first), high - Kv<T>::high(first)));
}

// Keys of a step: for each half of 8 positions, this lane's bytes of one key.
template <class T, u32 D> struct Keys {
    static constexpr u32 PER_LOAD = 16 / sizeof(T);
    static constexpr u32 LOADS = D / (4 * PER_LOAD);
    uint4 x[2][LOADS];

    __device__ __forceinline__ void load(const T* block, u32 offset, u32 last) {
        u32 g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const T* key = block + (u64)min(offset + half * 8 + g, last) * D + t * PER_LOAD;
#pragma unroll
            for (u32 j = 0; j < LOADS; j++) x[half][j] = load16_written(key + j * 4 * PER_LOAD);
        }
    }

    // The fragment of sixteen elements of the head, number `step`; the element that stands at place k is
    // `element_at(step, t) + k` for this lane's two pairs of k.
    __device__ __forceinline__ void fragment(u32 half, u32 step, u32 (&b)[2]) const {
        const u32 words = PER_LOAD / 4;
        uint4 from = x[half][step / words];
        if constexpr (sizeof(T) == 2) {
            b[0] = step % words == 0 ? from.x : from.z;
            b[1] = step % words == 0 ? from.y : from.w;
        } else {
            u32 word = step % words;
            uint2 pairs = expand_e4m3(word == 0 ? from.x : word == 1 ? from.y : word == 2 ? from.z : from.w);
            b[0] = pairs.x;
            b[1] = pairs.y;
        }
    }

    static __device__ __forceinline__ u32 element_at(u32 step, u32 t) {
        const u32 words = PER_LOAD / 4;
        return step / words * 4 * PER_LOAD + t * PER_LOAD + step % words * 4;
    }
};

// Values of a step: for each of this lane's four positions, 8 elements of every 64, as pairs of 16-bit numbers.
template <class T, u32 D> struct Values {
    uint4 x[4][D / 64];

    __device__ __forceinline__ void load(const T* block, u32 offset, u32 last) {
        u32 g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const T* value = block + (u64)min(offset + 2 * t + i % 2 + i / 2 * 8, last) * D + g * 8;
#pragma unroll
            for (u32 c = 0; c < D / 64; c++) {
                if constexpr (sizeof(T) == 2) {
                    x[i][c] = load16_written(value + c * 64);
                } else {
                    uint2 bytes = *(const uint2*)(value + c * 64); // widened when they are used
                    x[i][c].x = bytes.x;
                    x[i][c].y = bytes.y;
                }
            }
        }
    }

    // To 16 bits, once they have arrived.
    __device__ __forceinline__ void widen() {
        if constexpr (sizeof(T) == 1) {
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 c = 0; c < D / 64; c++) {
                    uint2 low = expand_e4m3(x[i][c].x), high = expand_e4m3(x[i][c].y);
                    x[i][c] = make_uint4(low.x, low.y, high.x, high.y);
                }
        }
    }

    // The fragment whose column g is element 64 * c + 8 * g + i of the head.
    __device__ __forceinline__ void fragment(u32 c, u32 i, u32 (&b)[2]) const {
        u32 zip = i % 2 == 0 ? 0x5410 : 0x7632;
        b[0] = __byte_perm(word(x[0][c], i / 2), word(x[1][c], i / 2), zip);
        b[1] = __byte_perm(word(x[2][c], i / 2), word(x[3][c], i / 2), zip);
    }

    static __device__ __forceinline__ u32 word(uint4 x, u32 i) { return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w; }
};

// The running softmax of a warp's rows g and g + 8.
template <u32 D> struct Softmax {
    float max[2] = {LOWEST, LOWEST}, sum[2] = {0.0f, 0.0f}; // the sum of this lane's positions alone
    float acc[D / 8][4] = {};

    // Makes weights of scores, and rescales what was summed if there is a new maximum.
    __device__ __forceinline__ void take(float (&s)[2][4]) {
#pragma unroll
        for (u32 row = 0; row < 2; row++) {
            float largest = fmaxf(fmaxf(s[0][2 * row], s[0][2 * row + 1]), fmaxf(s[1][2 * row], s[1][2 * row + 1]));
            largest = fmaxf(largest, __shfl_xor_sync(FULL_MASK, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(FULL_MASK, largest, 2));
            float next = fmaxf(max[row], largest), rescale = exp2_fast(max[row] - next);
            max[row] = next;
            sum[row] *= rescale;
#pragma unroll
            for (u32 n = 0; n < 2; n++)
#pragma unroll
                for (u32 i = 2 * row; i < 2 * row + 2; i++) {
                    s[n][i] = exp2_fast(s[n][i] - next);
                    sum[row] += s[n][i];
                }
#pragma unroll
            for (u32 n = 0; n < D / 8; n++) {
                acc[n][2 * row] *= rescale;
                acc[n][2 * row + 1] *= rescale;
            }
        }
    }
};

// What the warps of a block share: first the queries, then their results.
template <u32 D> union Scratch {
    uint4 queries[2][D / 16][WARP_SIZE]; // the two parts, as fragments
    float acc[WARPS][ROWS][D + 4];
};

// This tile's rows, multiplied with `scale` and split in two, in the order of the fragments.
template <class T, u32 D>
static __device__ __forceinline__ void load_queries(uint4 (&to)[2][D / 16][WARP_SIZE], const float* q, const Sequence& sequence, u32 first_row,
                                                    u32 rows, u32 kv_head, u32 group, u32 heads, float scale) {
    for (u32 i = threadIdx.x; i < D / 16 * WARP_SIZE; i += blockDim.x) {
        u32 step = i / WARP_SIZE, g = i % WARP_SIZE / 4, d = Keys<T, D>::element_at(step, i % 4);
        float x[2][4] = {};
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 row = first_row + g + half * 8;
            if (row >= rows) continue;
            const float* from = q + ((u64)(sequence.first_token + row / group) * heads + kv_head * group + row % group) * D + d;
#pragma unroll
            for (u32 k = 0; k < 4; k++) x[half][k] = from[k] * scale;
        }
        uint2 a0 = split<T>(x[0][0], x[0][1]), a1 = split<T>(x[1][0], x[1][1]);
        uint2 a2 = split<T>(x[0][2], x[0][3]), a3 = split<T>(x[1][2], x[1][3]);
        to[0][step][i % WARP_SIZE] = make_uint4(a0.x, a1.x, a2.x, a3.x);
        to[1][step][i % WARP_SIZE] = make_uint4(a0.y, a1.y, a2.y, a3.y);
    }
}

// Scores of 16 positions; those that a row does not see are minus infinity.
template <class T, u32 D>
static __device__ __forceinline__ void score(float (&s)[2][4], const uint4 (&queries)[2][D / 16][WARP_SIZE], const Keys<T, D>& keys,
                                             u32 first, const u32 (&visible)[2]) {
#pragma unroll
    for (u32 n = 0; n < 2; n++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) s[n][i] = 0.0f;
#pragma unroll
    for (u32 step = 0; step < D / 16; step++) {
#pragma unroll
        for (u32 part = 0; part < 2; part++) {
            uint4 query = queries[part][step][lane_id()];
            const u32 a[4] = {query.x, query.y, query.z, query.w};
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                u32 b[2];
                keys.fragment(half, step, b);
                Kv<T>::mma(s[half], a, b);
            }
        }
    }
#pragma unroll
    for (u32 n = 0; n < 2; n++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 position = first + n * 8 + lane_id() % 4 * 2 + i % 2;
            s[n][i] = position < visible[i / 2] ? s[n][i] * Kv<T>::UNIT : -INFINITE;
        }
}

// Adds the weighted values of 16 positions.
template <class T, u32 D>
static __device__ __forceinline__ void add_values(float (&acc)[D / 8][4], const float (&s)[2][4], const Values<T, D>& values) {
    uint2 p0 = split<T>(s[0][0], s[0][1]), p1 = split<T>(s[0][2], s[0][3]);
    uint2 p2 = split<T>(s[1][0], s[1][1]), p3 = split<T>(s[1][2], s[1][3]);
    const u32 large[4] = {p0.x, p1.x, p2.x, p3.x}, small[4] = {p0.y, p1.y, p2.y, p3.y};
#pragma unroll
    for (u32 c = 0; c < D / 64; c++)
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            u32 b[2];
            values.fragment(c, i, b);
            Kv<T>::mma(acc[c * 8 + i], large, b);
            Kv<T>::mma(acc[c * 8 + i], small, b);
        }
}

// Merges the warps' results and hands them out: `to(row, d, value, max, sum)`.
template <u32 D, class To>
static __device__ __forceinline__ void merge_warps(float (&shared)[WARPS][ROWS][D + 4], Softmax<D>& softmax, To to) {
    __shared__ float maxima[WARPS][ROWS], sums[WARPS][ROWS];
    u32 warp = warp_id(), g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (u32 row = 0; row < 2; row++) {
        float sum = softmax.sum[row];
        sum += __shfl_xor_sync(FULL_MASK, sum, 1);
        sum += __shfl_xor_sync(FULL_MASK, sum, 2);
        if (t == 0) {
            maxima[warp][g + row * 8] = softmax.max[row];
            sums[warp][g + row * 8] = sum;
        }
    }
    __syncthreads(); // all are done with the queries, which lie in the same place
#pragma unroll
    for (u32 n = 0; n < D / 8; n++)
#pragma unroll
        for (u32 i = 0; i < 4; i++)
            shared[warp][g + i / 2 * 8][n / 8 * 64 + (2 * t + i % 2) * 8 + n % 8] = softmax.acc[n][i];
    __syncthreads();
    for (u32 i = threadIdx.x; i < ROWS * D; i += blockDim.x) {
        u32 row = i / D, d = i % D;
        float max = LOWEST, sum = 0.0f, value = 0.0f;
#pragma unroll
        for (u32 w = 0; w < WARPS; w++) max = fmaxf(max, maxima[w][row]);
#pragma unroll
        for (u32 w = 0; w < WARPS; w++) {
            float weight = exp2_fast(maxima[w][row] - max);
            sum += weight * sums[w][row];
            value += weight * shared[w][row][d];
        }
        to(row, d, value, max, sum);
    }
}

// One tile of rows over one piece of a context.
template <class T, u32 D>
static __device__ __forceinline__ void decode(const float* q, const T* all_keys, const T* all_values, const u32* query_start,
                                              const u32* context_lens, const u32* block_tables, float* out, float* partials,
                                              u32 max_blocks, u32 heads, u32 kv_heads, u32 block_shift, u32 max_queries, u32 tiles,
                                              float scale) {
    __shared__ __align__(16) Scratch<D> scratch;
    wait_for_previous_kernel();
    start_next_kernel();
    const Sequence sequence = sequence_at(blockIdx.z, query_start, context_lens, block_tables, max_blocks);
    u32 kv_head = blockIdx.y / tiles, group = heads / kv_heads, first_row = blockIdx.y % tiles * ROWS;
    u32 pieces = gridDim.x, piece = blockIdx.x, len = piece_len(sequence.context_len, pieces);
    u32 rows = sequence.queries * group, begin = piece * len;
    if (sequence.queries > max_queries || first_row >= rows || begin >= sequence.context_len) return;
    u32 end = min(begin + len, sequence.context_len);

    load_queries<T, D>(scratch.queries, q, sequence, first_row, rows, kv_head, group, heads, scale);
    __syncthreads();
    u32 g = lane_id() / 4;
    const u32 visible[2] = {min(end, sequence.visible((first_row + g) / group)), min(end, sequence.visible((first_row + g + 8) / group))};
    const Store<T> key_store(all_keys, kv_head, kv_heads, block_shift, D), value_store(all_values, kv_head, kv_heads, block_shift, D);
    // A step lies in one block, since blocks are multiples of it. Rows beyond the context are read as its last.
    auto block_of = [&](u32 first) { return first < end ? sequence.block_table[first >> block_shift] : 0; };
    auto last_of = [&](u32 first) { return end - 1 - (first >> block_shift << block_shift); };

    u32 in_block = (1u << block_shift) - 1;
    Softmax<D> softmax;
    Keys<T, D> keys;
    Values<T, D> values;
    u32 first = begin + warp_id() * STEP, block = block_of(first);
    if (first < end) {
        keys.load(key_store.block(block), (first & in_block), last_of(first));
        values.load(value_store.block(block), (first & in_block), last_of(first));
    }
    for (; first < end; first += PIECE) {
        u32 next = first + PIECE, next_block = block_of(next);
        float s[2][4];
        score<T, D>(s, scratch.queries, keys, first, visible);
        if (next < end) keys.load(key_store.block(next_block), (next & in_block), last_of(next));
        softmax.take(s);
        values.widen();
        add_values<T, D>(softmax.acc, s, values);
        if (next < end) values.load(value_store.block(next_block), (next & in_block), last_of(next));
    }

    bool whole = len >= sequence.context_len;
    float* partial = partials + ((u64)(blockIdx.z * gridDim.y + blockIdx.y) * pieces + piece) * partial_len(D);
    merge_warps<D>(scratch.acc, softmax, [&](u32 row, u32 d, float value, float max, float sum) {
        u32 r = first_row + row;
        if (r >= rows) return;
        if (whole) {
            out[((u64)(sequence.first_token + r / group) * heads + kv_head * group + r % group) * D + d] = value / sum * Kv<T>::UNIT;
        } else {
            partial[row * D + d] = value;
            if (d == 0) {
                partial[ROWS * D + row] = max;
                partial[ROWS * D + ROWS + row] = sum;
            }
        }
    });
}

// Merges the pieces of a row's context; nothing where there is one piece only. One warp per row.
template <u32 D>
static __device__ __forceinline__ void merge_pieces(const u32* query_start, const u32* context_lens, float* out, const float* partials,
                                                    u32 heads, u32 kv_heads, u32 max_queries, u32 tiles, u32 pieces, float unit) {
    wait_for_previous_kernel();
    start_next_kernel();
    u32 tile_index = blockIdx.x * WARPS / ROWS, row = blockIdx.x * WARPS % ROWS + warp_id();
    u32 kv_head = tile_index / tiles, group = heads / kv_heads, r = tile_index % tiles * ROWS + row;
    u32 first_token = query_start[blockIdx.y], queries = query_start[blockIdx.y + 1] - first_token;
    u32 context_len = context_lens[blockIdx.y], len = piece_len(context_len, pieces);
    if (queries > max_queries || r >= queries * group || len >= context_len) return;
    u32 count = ceil_div(context_len, len);
    const float* partial = partials + ((u64)blockIdx.y * kv_heads * tiles + tile_index) * pieces * partial_len(D);
    auto max_of = [&](u32 piece) { return partial[piece * partial_len(D) + ROWS * D + row]; };
    float max = LOWEST, sum = 0.0f, acc[D / WARP_SIZE] = {};
    for (u32 piece = lane_id(); piece < count; piece += WARP_SIZE) max = fmaxf(max, max_of(piece));
    max = warp_max(max);
#pragma unroll 4
    for (u32 piece = 0; piece < count; piece++) {
        const float* from = partial + piece * partial_len(D);
        float weight = exp2_fast(max_of(piece) - max);
        sum += weight * from[ROWS * D + ROWS + row];
#pragma unroll
        for (u32 i = 0; i < D / WARP_SIZE; i++) acc[i] += weight * from[row * D + i * WARP_SIZE + lane_id()];
    }
    float* to = out + ((u64)(first_token + r / group) * heads + kv_head * group + r % group) * D;
#pragma unroll
    for (u32 i = 0; i < D / WARP_SIZE; i++) to[i * WARP_SIZE + lane_id()] = acc[i] / sum * unit;
}

// Grid: (pieces, KVH * tiles, sequences), where `tiles` times 16 rows hold `max_queries` queries; sequences with more queries are
// left alone. A block has 2^block_shift positions, 16 or more. `partials`: for each block of the grid [16, D + 2] floats, unused with one piece.
#define PAGED_ATTENTION_DECODE(name, T, D)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128, 3)                                                                         \
        name(const float* q, const T* keys, const T* values, const u32* query_start, const u32* context_lens,                    \
             const u32* block_tables, float* out, float* partials, u32 max_blocks, u32 heads, u32 kv_heads, u32 block_shift,     \
             u32 max_queries, u32 tiles, float scale) {                                                                          \
        decode<T, D>(q, keys, values, query_start, context_lens, block_tables, out, partials, max_blocks, heads, kv_heads,       \
                     block_shift, max_queries, tiles, scale);                                                                    \
    }                                                                                                                            \
    GLM_KERNEL(name)

PAGED_ATTENTION_DECODE(paged_attention_decode_bf16_64, Bf16, 64)
PAGED_ATTENTION_DECODE(paged_attention_decode_bf16_128, Bf16, 128)
PAGED_ATTENTION_DECODE(paged_attention_decode_f16_64, F16, 64)
PAGED_ATTENTION_DECODE(paged_attention_decode_f16_128, F16, 128)
PAGED_ATTENTION_DECODE(paged_attention_decode_e4m3_64, E4m3, 64)
PAGED_ATTENTION_DECODE(paged_attention_decode_e4m3_128, E4m3, 128)

// Grid: (KVH * tiles * 4, sequences). `unit` is what stored values were divided by.
#define PAGED_ATTENTION_MERGE(name, D)                                                                                           \
    extern "C" __global__ void __launch_bounds__(128, 12)                                                                        \
        name(const u32* query_start, const u32* context_lens, float* out, const float* partials, u32 heads, u32 kv_heads,        \
             u32 max_queries, u32 tiles, u32 pieces, float unit) {                                                               \
        merge_pieces<D>(query_start, context_lens, out, partials, heads, kv_heads, max_queries, tiles, pieces, unit);            \
    }                                                                                                                            \
    GLM_KERNEL(name)

PAGED_ATTENTION_MERGE(paged_attention_decode_merge_64, 64)
PAGED_ATTENTION_MERGE(paged_attention_decode_merge_128, 128)
