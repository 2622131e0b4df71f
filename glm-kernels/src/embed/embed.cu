// `out[t, :] = table[ids[t], :]`, widened to f32. Grid: (tokens, blocks of `8 * blockDim.x` columns). Sixteen bytes at a time
// where a row is a multiple of that, one number at a time where it is not.

static __device__ __forceinline__ void widen(uint4 x, const float*, float* out) { store16(out, x); }
struct Bf16 {
    u16 bits;
};
struct F16 {
    u16 bits;
};
static __device__ __forceinline__ float widen(float x) { return x; }
static __device__ __forceinline__ float widen(Bf16 x) { return bf16_to_f32(x.bits); }
static __device__ __forceinline__ float widen(F16 x) { return f16_to_f32(x.bits); }
static __device__ __forceinline__ void widen(uint4 x, const Bf16*, float* out) {
    *(float4*)out = make_float4(bf16_low(x.x), bf16_high(x.x), bf16_low(x.y), bf16_high(x.y));
    *(float4*)(out + 4) = make_float4(bf16_low(x.z), bf16_high(x.z), bf16_low(x.w), bf16_high(x.w));
}
static __device__ __forceinline__ void widen(uint4 x, const F16*, float* out) {
    *(float4*)out = make_float4(f16_low(x.x), f16_high(x.x), f16_low(x.y), f16_high(x.y));
    *(float4*)(out + 4) = make_float4(f16_low(x.z), f16_high(x.z), f16_low(x.w), f16_high(x.w));
}

template <class T> static __device__ __forceinline__ void embed_row(const T* table, const u32* ids, float* out, u32 columns) {
    wait_for_previous_kernel();
    start_next_kernel();
    const u32 width = 16 / sizeof(T);
    table += (u64)ids[blockIdx.x] * columns;
    out += (u64)blockIdx.x * columns;
    u32 first = blockIdx.y * blockDim.x * 8, end = min(first + blockDim.x * 8, columns);
    if (columns % width == 0) {
        for (u32 i = first + threadIdx.x * width; i < end; i += blockDim.x * width) widen(load16(table + i), table, out + i);
    } else {
        for (u32 i = first + threadIdx.x; i < end; i += blockDim.x) out[i] = widen(table[i]);
    }
}

extern "C" __global__ void __launch_bounds__(256) embed_f32(const float* table, const u32* ids, float* out, u32 columns) {
    embed_row(table, ids, out, columns);
}
GLM_KERNEL(embed_f32)

extern "C" __global__ void __launch_bounds__(256) embed_bf16(const Bf16* table, const u32* ids, float* out, u32 columns) {
    embed_row(table, ids, out, columns);
}
GLM_KERNEL(embed_bf16)

extern "C" __global__ void __launch_bounds__(256) embed_f16(const F16* table, const u32* ids, float* out, u32 columns) {
    embed_row(table, ids, out, columns);
}
GLM_KERNEL(embed_f16)
