// Attention of many queries: FlashAttention-2 (Dao 2023, arXiv:2307.08691) over paged keys and values.
//
// A block takes 128 rows (query heads of a KV head), 32 for each of its four warps, and meets the keys 48 or 64 at a time, in
// order of position. Queries, keys and values lie in shared memory as 16-bit numbers, rows padded by 16 bytes so that the eight rows of an
// `ldmatrix` are in different banks for every head size. While scores are computed the values arrive, while those are added up
// the next keys do.
//
// What bounds it: with 32 rows a warp reads 30 KiB of shared memory for 48 keys (D = 128), 240 cycles, and makes 2^19 * 3/4
// multiply-adds, 300 cycles at what mma.sync reaches on an H100. Registers: 128 sums, 48 scores; two blocks on a multiprocessor.
//
// A tile is found by the block itself from `query_start`, so that nothing is uploaded but what the step brings: blocks number the
// tiles of all sequences, each sequence's from the last on, whose contexts are longest.

#define ROWS 128u
#define TILES 2u // of 16 rows for each warp
#define THREADS 128u

// Keys at a time: as many as there are registers for.
template <u32 D> constexpr u32 KEYS = D <= 64 ? 64 : 48;

struct Tile {
    u32 sequence, index;
    bool found;
};

// The tile of this number; sequences with at most `min_queries` queries have none. All lanes of a warp take part.
static __device__ __forceinline__ Tile find_tile(u32 number, const u32* query_start, u32 sequences, u32 min_queries, u32 group) {
    for (u32 first = 0; first < sequences; first += WARP_SIZE) {
        u32 index = first + lane_id();
        u32 queries = index < sequences ? query_start[index + 1] - query_start[index] : 0;
        u32 tiles = queries > min_queries ? ceil_div(queries * group, ROWS) : 0;
        u32 end = tiles; // of this lane's tiles
#pragma unroll
        for (u32 step = 1; step < WARP_SIZE; step *= 2) {
            u32 before = __shfl_up_sync(FULL_MASK, end, step);
            if (lane_id() >= step) end += before;
        }
        u32 reached = __ballot_sync(FULL_MASK, end > number);
        if (reached) {
            int lane = __ffs((int)reached) - 1;
            return {first + (u32)lane, __shfl_sync(FULL_MASK, end, lane) - 1 - number, true};
        }
        number -= __shfl_sync(FULL_MASK, end, 31);
    }
    return {0, 0, false};
}

// Rows of 16-bit numbers in shared memory.
template <u32 D> struct Matrix {
    static constexpr u32 STRIDE = D + 8;
    u16* start;
    __device__ __forceinline__ u16* row(u32 i) const { return start + i * STRIDE; }
};

// This tile's rows, multiplied with `scale`; zeros where there are none.
template <class T, u32 D>
static __device__ __forceinline__ void load_queries(Matrix<D> to, const float* q, const Sequence& sequence, u32 first_row, u32 kv_head,
                                                    u32 group, u32 heads, float scale) {
    u32 rows = sequence.queries * group;
    for (u32 i = threadIdx.x; i < ROWS * D / 4; i += THREADS) {
        u32 row = i / (D / 4), d = i % (D / 4) * 4, r = first_row + row;
        float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (r < rows) x = *(const float4*)(q + ((u64)(sequence.first_token + r / group) * heads + kv_head * group + r % group) * D + d);
        *(uint2*)(to.row(row) + d) =
            make_uint2(Kv<T>::pack(x.x * scale, x.y * scale), Kv<T>::pack(x.z * scale, x.w * scale));
    }
}

// Brings the keys or values from position `first` on to shared memory, zeros from `end` on; those of 16 bits in the
// background.
template <class T, u32 D>
static __device__ __forceinline__ void load_tile(Matrix<D> to, const Store<T>& store, const Sequence& sequence, u32 first, u32 end) {
    const u32 per_load = 16 / sizeof(T), loads = D / per_load, rows = THREADS / loads; // rows at a time
    static_assert(THREADS % loads == 0 && KEYS<D> % rows == 0, "each thread has its part of a row");
    u32 d = threadIdx.x % loads * per_load, first_row = threadIdx.x / loads;
    u16* cell = to.row(first_row) + d;
    first += first_row;
#pragma unroll 3 // more would cost registers that are not there
    for (u32 i = 0; i < KEYS<D>; i += rows) {
        bool there = first + i < end;
        const T* from = there ? store.at(sequence, first + i, D) + d : store.start;
        if constexpr (sizeof(T) == 2) {
            cp_async16(cell + i * Matrix<D>::STRIDE, from, there ? 16 : 0);
        } else {
            uint4 x = there ? load16_written(from) : make_uint4(0, 0, 0, 0);
            uint2 a = expand_e4m3(x.x), b = expand_e4m3(x.y), c = expand_e4m3(x.z), e = expand_e4m3(x.w);
            store16(cell + i * Matrix<D>::STRIDE, make_uint4(a.x, a.y, b.x, b.y));
            store16(cell + i * Matrix<D>::STRIDE + 8, make_uint4(c.x, c.y, e.x, e.y));
        }
    }
    cp_async_commit();
}

// Scores of this warp's 32 rows.
template <class T, u32 D>
static __device__ __forceinline__ void score(float (&s)[TILES][KEYS<D> / 8][4], Matrix<D> queries, Matrix<D> keys) {
    u32 lane = lane_id(), first_row = warp_id() * TILES * 16;
#pragma unroll
    for (u32 tile = 0; tile < TILES; tile++)
#pragma unroll
        for (u32 n = 0; n < KEYS<D> / 8; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) s[tile][n][i] = 0.0f;
#pragma unroll
    for (u32 d = 0; d < D; d += 16) {
        u32 a[TILES][4];
#pragma unroll
        for (u32 tile = 0; tile < TILES; tile++) ldmatrix(a[tile], queries.row(first_row + tile * 16 + lane % 16) + d + lane / 16 * 8);
#pragma unroll
        for (u32 key = 0; key < KEYS<D>; key += 16) {
            u32 b[4]; // both halves of d for eight keys, then for the next eight
            ldmatrix(b, keys.row(key + lane / 16 * 8 + lane % 8) + d + lane / 8 % 2 * 8);
            const u32 low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
            for (u32 tile = 0; tile < TILES; tile++) {
                Kv<T>::mma(s[tile][key / 8], a[tile], low);
                Kv<T>::mma(s[tile][key / 8 + 1], a[tile], high);
            }
        }
    }
    if constexpr (Kv<T>::UNIT != 1.0f) {
#pragma unroll
        for (u32 tile = 0; tile < TILES; tile++)
#pragma unroll
            for (u32 n = 0; n < KEYS<D> / 8; n++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) s[tile][n][i] *= Kv<T>::UNIT;
    }
}

// The running softmax of a warp's rows: g and g + 8 of each tile.
template <u32 D> struct Softmax {
    float max[TILES][2], sum[TILES][2]; // the sum of this lane's positions alone
    float acc[TILES][D / 8][4];

    __device__ __forceinline__ Softmax() {
#pragma unroll
        for (u32 tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (u32 row = 0; row < 2; row++) {
                max[tile][row] = LOWEST;
                sum[tile][row] = 0.0f;
            }
#pragma unroll
            for (u32 n = 0; n < D / 8; n++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) acc[tile][n][i] = 0.0f;
        }
    }

    // Makes weights of scores, and rescales what was summed if there is a new maximum.
    __device__ __forceinline__ void take(float (&s)[TILES][KEYS<D> / 8][4]) {
#pragma unroll
        for (u32 tile = 0; tile < TILES; tile++)
#pragma unroll
            for (u32 row = 0; row < 2; row++) {
                float largest = -INFINITE;
#pragma unroll
                for (u32 n = 0; n < KEYS<D> / 8; n++) largest = fmaxf(largest, fmaxf(s[tile][n][2 * row], s[tile][n][2 * row + 1]));
                largest = fmaxf(largest, __shfl_xor_sync(FULL_MASK, largest, 1));
                largest = fmaxf(largest, __shfl_xor_sync(FULL_MASK, largest, 2));
                float next = fmaxf(max[tile][row], largest), rescale = exp2_fast(max[tile][row] - next);
                max[tile][row] = next;
                sum[tile][row] *= rescale;
#pragma unroll
                for (u32 n = 0; n < KEYS<D> / 8; n++)
#pragma unroll
                    for (u32 i = 2 * row; i < 2 * row + 2; i++) {
                        s[tile][n][i] = exp2_fast(s[tile][n][i] - next);
                        sum[tile][row] += s[tile][n][i];
                    }
#pragma unroll
                for (u32 n = 0; n < D / 8; n++) {
                    acc[tile][n][2 * row] *= rescale;
                    acc[tile][n][2 * row + 1] *= rescale;
                }
            }
    }
};

// Adds the weighted values.
template <class T, u32 D>
static __device__ __forceinline__ void add_values(float (&acc)[TILES][D / 8][4], const float (&s)[TILES][KEYS<D> / 8][4], Matrix<D> values) {
    u32 lane = lane_id();
#pragma unroll
    for (u32 key = 0; key < KEYS<D>; key += 16) {
        u32 a[TILES][4];
#pragma unroll
        for (u32 tile = 0; tile < TILES; tile++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) a[tile][i] = Kv<T>::pack(s[tile][key / 8 + i / 2][i % 2 * 2], s[tile][key / 8 + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (u32 d = 0; d < D; d += 16) {
            u32 b[4]; // both halves of the keys for eight elements, then for the next eight
            ldmatrix_transposed(b, values.row(key + lane / 8 % 2 * 8 + lane % 8) + d + lane / 16 * 8);
            const u32 low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
#pragma unroll
            for (u32 tile = 0; tile < TILES; tile++) {
                Kv<T>::mma(acc[tile][d / 8], a[tile], low);
                Kv<T>::mma(acc[tile][d / 8 + 1], a[tile], high);
            }
        }
    }
}

template <class T, u32 D>
static __device__ __forceinline__ void prefill(const float* q, const T* all_keys, const T* all_values, const u32* query_start,
                                               const u32* context_lens, const u32* block_tables, float* out, u32 sequences, u32 max_blocks,
                                               u32 heads, u32 kv_heads, u32 block_shift, u32 min_queries, float scale) {
    wait_for_previous_kernel();
    start_next_kernel();
    u32 kv_head = blockIdx.y, group = heads / kv_heads;
    const Tile tile = find_tile(blockIdx.x, query_start, sequences, min_queries, group);
    if (!tile.found) return;
    const Sequence sequence = sequence_at(tile.sequence, query_start, context_lens, block_tables, max_blocks);
    u32 first_row = tile.index * ROWS, rows = min(ROWS, sequence.queries * group - first_row);
    u32 all_see = sequence.visible(first_row / group), end = sequence.visible((first_row + rows - 1) / group);
    const Store<T> key_store(all_keys, kv_head, kv_heads, block_shift, D), value_store(all_values, kv_head, kv_heads, block_shift, D);
    u16* shared = (u16*)dynamic_shared();
    const Matrix<D> queries = {shared}, keys = {queries.row(ROWS)}, values = {keys.row(KEYS<D>)};

    load_tile<T, D>(keys, key_store, sequence, 0, end);
    load_queries<T, D>(queries, q, sequence, first_row, kv_head, group, heads, scale);
    // This lane's rows, within the tile.
    auto row_of = [](u32 i, u32 half) { return (warp_id() * TILES + i) * 16 + half * 8 + lane_id() / 4; };
    Softmax<D> softmax;
    for (u32 first = 0; first < end; first += KEYS<D>) {
        cp_async_wait<0>();
        __syncthreads(); // the keys are there, and nobody needs the last values
        load_tile<T, D>(values, value_store, sequence, first, end);
        float s[TILES][KEYS<D> / 8][4];
        score<T, D>(s, queries, keys);
        if (first + KEYS<D> > all_see) {
#pragma unroll
            for (u32 i = 0; i < TILES; i++)
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    u32 visible = sequence.visible((first_row + row_of(i, half)) / group);
#pragma unroll
                    for (u32 n = 0; n < KEYS<D> / 8; n++)
#pragma unroll
                        for (u32 k = 0; k < 2; k++)
                            if (first + n * 8 + lane_id() % 4 * 2 + k >= visible) s[i][n][2 * half + k] = -INFINITE;
                }
        }
        cp_async_wait<0>();
        __syncthreads(); // the values are there, and nobody needs the keys
        if (first + KEYS<D> < end) load_tile<T, D>(keys, key_store, sequence, first + KEYS<D>, end);
        softmax.take(s);
        add_values<T, D>(softmax.acc, s, values);
    }
#pragma unroll
    for (u32 i = 0; i < TILES; i++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float sum = softmax.sum[i][half];
            sum += __shfl_xor_sync(FULL_MASK, sum, 1);
            sum += __shfl_xor_sync(FULL_MASK, sum, 2);
            if (row_of(i, half) >= rows) continue;
            u32 r = first_row + row_of(i, half);
            float* to = out + ((u64)(sequence.first_token + r / group) * heads + kv_head * group + r % group) * D;
            float factor = Kv<T>::UNIT / sum;
#pragma unroll
            for (u32 n = 0; n < D / 8; n++)
                *(float2*)(to + n * 8 + lane_id() % 4 * 2) = make_float2(softmax.acc[i][n][2 * half] * factor, softmax.acc[i][n][2 * half + 1] * factor);
        }
}

// Grid: (at least as many as there are tiles, KVH). Sequences with at most `min_queries` queries are left alone. A block has
// 2^block_shift positions. Shared memory: 128 + 2 * KEYS<D> rows of D + 8 numbers of 16 bits.
#define PAGED_ATTENTION_PREFILL(name, T, D)                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                                     \
        name(const float* q, const T* keys, const T* values, const u32* query_start, const u32* context_lens,                    \
             const u32* block_tables, float* out, u32 sequences, u32 max_blocks, u32 heads, u32 kv_heads, u32 block_shift,       \
             u32 min_queries, float scale) {                                                                                     \
        prefill<T, D>(q, keys, values, query_start, context_lens, block_tables, out, sequences, max_blocks, heads, kv_heads,     \
                      block_shift, min_queries, scale);                                                                          \
    }                                                                                                                            \
    GLM_KERNEL(name)

PAGED_ATTENTION_PREFILL(paged_attention_prefill_bf16_64, Bf16, 64)
PAGED_ATTENTION_PREFILL(paged_attention_prefill_bf16_128, Bf16, 128)
PAGED_ATTENTION_PREFILL(paged_attention_prefill_f16_64, F16, 64)
PAGED_ATTENTION_PREFILL(paged_attention_prefill_f16_128, F16, 128)
PAGED_ATTENTION_PREFILL(paged_attention_prefill_e4m3_64, E4m3, 64)
PAGED_ATTENTION_PREFILL(paged_attention_prefill_e4m3_128, E4m3, 128)
