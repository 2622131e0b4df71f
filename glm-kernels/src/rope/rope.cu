// Rotary position embedding, and storing of keys and values in paged memory.
//
// Keys and values lie as [num_blocks, KVH, block_size, D].

// The cosine and sine of an f32 angle, to about half a unit in the last place: reduced and summed in f64, of which there are
// only `tokens * pairs` in a step. (A table of f32 would be wrong by whole units where positions are large.)
static __device__ __forceinline__ void cos_sin(float angle, float& cosine, float& sine) {
    double a = (double)angle;
    double turns = rint(a * 0.63661977236758134308);          // in quarters: 2 / pi
    double r = (a - turns * 1.57079632679489655800) - turns * 6.12323399573676603587e-17; // pi / 2 in two parts
    double z = r * r;
    // Taylor: the next terms are below 1e-14 where |r| <= pi / 4.
    double s = r + r * z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880 + z * (-1.0 / 39916800 + z * (1.0 / 6227020800.0))))));
    double c = 1.0 + z * (-0.5 + z * (1.0 / 24 + z * (-1.0 / 720 + z * (1.0 / 40320 + z * (-1.0 / 3628800 + z * (1.0 / 479001600.0 - z * (1.0 / 87178291200.0)))))));
    u32 quarter = (u32)(int)turns & 3u;
    double x = quarter & 1u ? s : c, y = quarter & 1u ? c : s;
    cosine = (float)(quarter == 1u || quarter == 2u ? -x : x);
    sine = (float)(quarter >= 2u ? -y : y);
}

// `table`: [2, tokens, pairs], cosines then sines of `positions[t] * inv_freq[i]`, times `scale`. Grid: blocks of `blockDim.x` cells.
extern "C" __global__ void __launch_bounds__(128, 12)
    rope_angles(const u32* positions, const float* inv_freq, float scale, float* table, u32 tokens, u32 pairs) {
    wait_for_previous_kernel();
    start_next_kernel();
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x, cells = (u64)tokens * pairs;
    if (i >= cells) return;
    float cosine, sine;
    cos_sin((float)positions[i / pairs] * inv_freq[i % pairs], cosine, sine);
    table[i] = cosine * scale;
    table[cells + i] = sine * scale;
}
GLM_KERNEL(rope_angles)

struct Bf16 {
    u16 bits;
};
struct F16 {
    u16 bits;
};
struct E4m3 {
    u8 bits;
};
// Finite numbers stay finite: an infinite value would turn the zero weight that an earlier query gives it into NaN.
static __device__ __forceinline__ void narrow(float x, float* to) { *to = x; }
static __device__ __forceinline__ void narrow(float x, Bf16* to) { to->bits = f32_to_bf16(x); }
static __device__ __forceinline__ void narrow(float x, F16* to) {
    // Not fmin and fmax: they would make a number of NaN.
    to->bits = f32_to_f16(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x);
}
static __device__ __forceinline__ void narrow(float x, E4m3* to) { to->bits = f32_to_e4m3(x); }

// Rotates the queries of a token into `q` and its keys into `keys`, and stores its values. Grid: (tokens, pieces of the heads);
// each thread takes pairs of elements, interleaved (2i, 2i + 1) or half-split (i, i + pairs), and two neighbours of the rest.
template <class T>
static __device__ __forceinline__ void rope_store(const float* qkv, const float* angles, const u32* slots, float* q, T* keys, T* values,
                                                  u32 heads, u32 kv_heads, u32 head_dim, u32 pairs, u32 half_split, u32 block_size) {
    wait_for_previous_kernel();
    start_next_kernel();
    u32 token = blockIdx.x;
    const float* cosines = angles + (u64)token * pairs;
    const float* sines = cosines + (u64)gridDim.x * pairs;
    qkv += (u64)token * (heads + 2 * kv_heads) * head_dim;
    u32 slot = slots[token];
    u64 block = (u64)(slot / block_size) * kv_heads * block_size + slot % block_size; // + head * block_size
    u32 per_head = (head_dim + 1) / 2, units = (heads + 2 * kv_heads) * per_head;
    for (u32 unit = blockIdx.y * blockDim.x + threadIdx.x; unit < units; unit += gridDim.y * blockDim.x) {
        u32 head = unit / per_head, i = unit % per_head;
        bool rotated = i < pairs && head < heads + kv_heads;
        u32 a = rotated && half_split ? i : 2 * i;
        u32 b = rotated && half_split ? i + pairs : 2 * i + 1;
        const float* from = qkv + (u64)head * head_dim;
        float x = from[a], y = b < head_dim ? from[b] : 0.0f;
        if (rotated) {
            float c = cosines[i], s = sines[i];
            float rotated_x = x * c - y * s;
            y = y * c + x * s;
            x = rotated_x;
        }
        if (head < heads) {
            float* to = q + ((u64)token * heads + head) * head_dim;
            to[a] = x;
            if (b < head_dim) to[b] = y;
        } else {
            bool key = head < heads + kv_heads;
            u32 kv_head = head - heads - (key ? 0 : kv_heads);
            T* to = (key ? keys : values) + (block + (u64)kv_head * block_size) * head_dim;
            narrow(x, to + a);
            if (b < head_dim) narrow(y, to + b);
        }
    }
}

#define ROPE_STORE(name, T)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(256, 6)                                                                         \
        name(const float* qkv, const float* angles, const u32* slots, float* q, T* keys, T* values, u32 heads, u32 kv_heads,     \
             u32 head_dim, u32 pairs, u32 half_split, u32 block_size) {                                                          \
        rope_store(qkv, angles, slots, q, keys, values, heads, kv_heads, head_dim, pairs, half_split, block_size);               \
    }                                                                                                                            \
    GLM_KERNEL(name)

ROPE_STORE(rope_store_kv_f32, float)
ROPE_STORE(rope_store_kv_bf16, Bf16)
ROPE_STORE(rope_store_kv_f16, F16)
ROPE_STORE(rope_store_kv_e4m3, E4m3)
