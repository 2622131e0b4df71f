// `out[i, :] = x[rows[i], :]`. Grid: (rows wanted, blocks of `4 * blockDim.x` columns).

extern "C" __global__ void __launch_bounds__(256, 6) gather_rows(const float* x, const u32* rows, float* out, u32 columns) {
    wait_for_previous_kernel();
    start_next_kernel();
    x += (u64)rows[blockIdx.x] * columns;
    out += (u64)blockIdx.x * columns;
    u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * 4;
    if (columns % 4 == 0) {
        if (i < columns) *(float4*)(out + i) = *(const float4*)(x + i);
    } else {
        for (u32 end = min(i + 4, columns); i < end; i++) out[i] = x[i];
    }
}
GLM_KERNEL(gather_rows)
