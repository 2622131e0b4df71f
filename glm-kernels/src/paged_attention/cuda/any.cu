// Attention for every stored type, head size up to 256 and block size: one warp for a query and a head. It is what the tensor
// cores' kernels do not do (keys and values in f32, odd sizes), and simple enough to check them against on a device.
//
// Thirty-two positions at a time: each lane scores one of them, then all lanes add up the values, each its own elements.

#define WARPS 4u
#define MAX_HEAD_DIM 256u
#define PER_LANE (MAX_HEAD_DIM / WARP_SIZE)

// The sequence that a token belongs to: the last whose first token is not after it.
static __device__ __forceinline__ u32 sequence_of(u32 token, const u32* query_start, u32 sequences) {
    u32 low = 0, high = sequences;
    while (high - low > 1) {
        u32 middle = (low + high) / 2;
        if (query_start[middle] <= token) low = middle;
        else high = middle;
    }
    return low;
}

template <class T>
static __device__ __forceinline__ void attend(const float* q, const T* all_keys, const T* all_values, const u32* query_start,
                                              const u32* context_lens, const u32* block_tables, float* out, u32 sequences,
                                              u32 max_blocks, u32 heads, u32 kv_heads, u32 head_dim, u32 block_size, float scale) {
    wait_for_previous_kernel();
    start_next_kernel();
    __shared__ float queries[WARPS][MAX_HEAD_DIM];
    u32 token = blockIdx.x, head = blockIdx.y * WARPS + warp_id(), lane = lane_id();
    if (head >= heads) return;
    const Sequence sequence =
        sequence_at(sequence_of(token, query_start, sequences), query_start, context_lens, block_tables, max_blocks);
    u32 kv_head = head / (heads / kv_heads), visible = sequence.visible(token - sequence.first_token);
    auto at = [&](const T* all, u32 position) {
        u64 block = sequence.block_table[position / block_size];
        return all + ((block * kv_heads + kv_head) * block_size + position % block_size) * head_dim;
    };
    u64 row = ((u64)token * heads + head) * head_dim;
    float* query = queries[warp_id()];
    for (u32 d = lane; d < head_dim; d += WARP_SIZE) query[d] = q[row + d] * scale;
    __syncwarp();

    float largest = LOWEST, sum = 0.0f, acc[PER_LANE] = {};
    for (u32 first = 0; first < visible; first += WARP_SIZE) {
        u32 count = min(WARP_SIZE, visible - first);
        float score = -INFINITE;
        if (lane < count) {
            const T* key = at(all_keys, first + lane);
            score = 0.0f;
            for (u32 d = 0; d < head_dim; d++) score = __fmaf_rn(query[d], Kv<T>::widen(key[d]), score);
        }
        float next = fmaxf(largest, warp_max(score)), rescale = exp2_fast(largest - next), weight = exp2_fast(score - next);
        largest = next;
        sum = sum * rescale + weight;
#pragma unroll
        for (u32 i = 0; i < PER_LANE; i++) acc[i] *= rescale;
        for (u32 k = 0; k < count; k++) {
            float p = __shfl_sync(FULL_MASK, weight, (int)k);
            const T* value = at(all_values, first + k);
#pragma unroll
            for (u32 i = 0; i < PER_LANE; i++) {
                u32 d = i * WARP_SIZE + lane;
                if (d < head_dim) acc[i] = __fmaf_rn(p, Kv<T>::widen(value[d]), acc[i]);
            }
        }
    }
    sum = warp_sum(sum);
#pragma unroll
    for (u32 i = 0; i < PER_LANE; i++) {
        u32 d = i * WARP_SIZE + lane;
        if (d < head_dim) out[row + d] = acc[i] / sum;
    }
}

// Grid: (tokens, quarters of the heads). `scale` is in units of log2(e).
#define PAGED_ATTENTION_ANY(name, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128, 8)                                                                         \
        name(const float* q, const T* keys, const T* values, const u32* query_start, const u32* context_lens,                    \
             const u32* block_tables, float* out, u32 sequences, u32 max_blocks, u32 heads, u32 kv_heads, u32 head_dim,          \
             u32 block_size, float scale) {                                                                                      \
        attend(q, keys, values, query_start, context_lens, block_tables, out, sequences, max_blocks, heads, kv_heads, head_dim,  \
               block_size, scale);                                                                                               \
    }                                                                                                                            \
    GLM_KERNEL(name)

PAGED_ATTENTION_ANY(paged_attention_any_f32, float)
PAGED_ATTENTION_ANY(paged_attention_any_bf16, Bf16)
PAGED_ATTENTION_ANY(paged_attention_any_f16, F16)
PAGED_ATTENTION_ANY(paged_attention_any_e4m3, E4m3)
