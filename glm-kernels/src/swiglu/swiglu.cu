// `out = silu(gate) * up`; a row of the input is the gates, then the ups. Grid: (rows, blocks of `4 * blockDim.x` columns).

static __device__ __forceinline__ float gated(float gate, float up) {
    // Where e^-gate overflows, the quotient is the 0 that it should be.
    return gate / (1.0f + __expf(-gate)) * up;
}

extern "C" __global__ void __launch_bounds__(256, 6) swiglu(const float* gate_up, float* out, u32 width) {
    wait_for_previous_kernel();
    start_next_kernel();
    const float* gate = gate_up + (u64)blockIdx.x * 2 * width;
    const float* up = gate + width;
    out += (u64)blockIdx.x * width;
    u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * 4;
    if (width % 4 == 0) {
        if (i >= width) return;
        float4 g = *(const float4*)(gate + i), u = *(const float4*)(up + i);
        *(float4*)(out + i) = make_float4(gated(g.x, u.x), gated(g.y, u.y), gated(g.z, u.z), gated(g.w, u.w));
    } else {
        for (u32 end = min(i + 4, width); i < end; i++) out[i] = gated(gate[i], up[i]);
    }
}
GLM_KERNEL(swiglu)
