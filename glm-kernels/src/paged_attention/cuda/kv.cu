// What the kernels of attention share: the stored types, where keys and values are, and which rows belong to a query.
//
// Keys and values lie as [num_blocks, KVH, block_size, D]. The query heads that share a KV head are rows beside each other: row r
// of a sequence and a KV head is query r / group, head kv_head * group + r % group. Scores are in units of log2(e), so that the
// softmax is made of powers of two.

struct Bf16 {
    u16 bits;
};
struct F16 {
    u16 bits;
};
struct E4m3 {
    u8 bits;
};

// How 16-bit numbers are multiplied that came from a stored type, and what its values are multiplied with to be themselves.
template <class T> struct Kv;

template <> struct Kv<Bf16> {
    static constexpr float UNIT = 1.0f;
    static __device__ __forceinline__ float widen(Bf16 x) { return bf16_to_f32(x.bits); }
    static __device__ __forceinline__ u32 pack(float low, float high) { return pack_bf16(low, high); }
    static __device__ __forceinline__ float low(u32 pair) { return bf16_low(pair); }
    static __device__ __forceinline__ float high(u32 pair) { return bf16_high(pair); }
    static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_bf16(d, a, b); }
};

template <> struct Kv<F16> {
    static constexpr float UNIT = 1.0f;
    static __device__ __forceinline__ float widen(F16 x) { return f16_to_f32(x.bits); }
    static __device__ __forceinline__ u32 pack(float low, float high) { return pack_f16(low, high); }
    static __device__ __forceinline__ float low(u32 pair) { return f16_low(pair); }
    static __device__ __forceinline__ float high(u32 pair) { return f16_high(pair); }
    static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_f16(d, a, b); }
};

// An e4m3 becomes the f16 with the same bits of exponent and fraction, which is 2^-8 of it (see `e4m3_to_f32`).
template <> struct Kv<E4m3> : Kv<F16> {
    static constexpr float UNIT = 256.0f;
    static __device__ __forceinline__ float widen(E4m3 x) { return e4m3_to_f32(x.bits); }
};

template <> struct Kv<float> {
    static __device__ __forceinline__ float widen(float x) { return x; }
};

// Four e4m3 as two pairs of f16.
static __device__ __forceinline__ uint2 expand_e4m3(u32 x) {
    u32 low = __byte_perm(x, 0, 0x1404), high = __byte_perm(x, 0, 0x3424); // each byte in the upper half of 16 bits
    return make_uint2((low & 0x80008000u) | (low & 0x7f007f00u) >> 1, (high & 0x80008000u) | (high & 0x7f007f00u) >> 1);
}

// A sequence of a step.
struct Sequence {
    u32 first_token, queries, context_len;
    const u32* block_table;

    // How many positions query `query` sees.
    __device__ __forceinline__ u32 visible(u32 query) const { return context_len - queries + query + 1; }
};

static __device__ __forceinline__ Sequence sequence_at(u32 index, const u32* query_start, const u32* context_lens, const u32* block_tables,
                                                       u32 max_blocks) {
    u32 first = query_start[index];
    return {first, query_start[index + 1] - first, context_lens[index], block_tables + (u64)index * max_blocks};
}

// One KV head of a layer, with blocks of 2^block_shift positions.
template <class T> struct Store {
    const T* start;
    u64 block_stride;
    u32 block_shift;

    __device__ __forceinline__ Store(const T* all, u32 kv_head, u32 kv_heads, u32 block_shift, u32 head_dim)
        : start(all + ((u64)kv_head << block_shift) * head_dim), block_stride(((u64)kv_heads << block_shift) * head_dim),
          block_shift(block_shift) {}

    __device__ __forceinline__ const T* block(u32 id) const { return start + id * block_stride; }
    // The key or value at a position.
    __device__ __forceinline__ const T* at(const Sequence& sequence, u32 position, u32 head_dim) const {
        u32 offset = position & ((1u << block_shift) - 1);
        return block(sequence.block_table[position >> block_shift]) + offset * head_dim;
    }
};
