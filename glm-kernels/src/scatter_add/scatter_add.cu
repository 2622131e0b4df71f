// `out[rows[t], start + i] += scale * x[t, i]`, each element rounded once. Grid: (rows of x, blocks of `blockDim.x` columns).

extern "C" __global__ void __launch_bounds__(256, 6)
    scatter_add(float* out, const u32* rows, const float* x, float scale, u32 width, u32 start, u32 columns) {
    wait_for_previous_kernel();
    start_next_kernel();
    u32 i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= columns) return;
    float* to = out + (u64)rows[blockIdx.x] * width + start + i;
    *to = __fmaf_rn(scale, x[(u64)blockIdx.x * columns + i], *to);
}
GLM_KERNEL(scatter_add)
