// out[t, r] = bias[r] + sum over c of x[t, c] * weight[r, c], bf16 with bf16, for prompts on Hopper (sm_90a): `wgmma`.
//
// A block has 128 tokens and 256 rows, each of its two warpgroups 64 tokens of them. Tiles of 64 columns of both come to shared
// memory by asynchronous copies, two ahead of the one that is multiplied; the products of a tile run while the copies of another
// are asked for and the next is waited for, so the tensor cores do not stop between tiles. (The copies take an eighth of the
// issue slots: TMA would save those, at the price of descriptors that the driver has to make.)
//
// Per tile of columns: 128 x 256 x 64 products, 1024 clocks of a multiprocessor's tensor cores, for 48 KiB from the level 2 cache,
// 48 bytes a clock: that, not the tensor cores, is the limit if fewer arrive. Groups of blocks that run together share rows.
//
// Not emulated: what chooses this kernel compares it with `linear_gemm_bf16_128` on the device first.

#if !defined(GLM_EMULATED) && defined(__CUDA_ARCH_FEAT_SM90_ALL)

#define STAGES 4u
#define TOKENS 128u
#define ROWS 256u
#define CHUNK 64u
#define STAGE_BYTES ((TOKENS + ROWS) * CHUNK * 2)

// Shared memory as `wgmma` reads it: rows of 128 bytes, in groups of eight whose 16-byte parts are swizzled, 1024 bytes apart.
static __device__ __forceinline__ u64 descriptor(u32 address) {
    return (u64)(address >> 4 & 0x3fff) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D16(i) D4(i), D4(i + 4), D4(i + 8), D4(i + 12)

// d += a * b for 64 tokens, 128 rows and 16 columns; d[4 * j + 2 * h + i] is token 16 * (warp % 4) + lane / 4 + 8 * h, row
// 8 * j + 2 * (lane % 4) + i.
static __device__ __forceinline__ void multiply(float (&d)[64], u64 a, u64 b) {
    asm volatile("{\n"
                 ".reg .pred accumulate;\n"
                 "setp.eq.u32 accumulate, 0, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, accumulate, 1, 1, 0, 0;\n"
                 "}\n"
                 : D16(0), D16(16), D16(32), D16(48)
                 : "l"(a), "l"(b));
}

// Grid: tiles of 256 rows times tiles of 128 tokens; 256 threads; 4 * 48 + 1 KiB of dynamic shared memory. `x` is that of
// linear_round_bf16, rows of both are `chunks` * 64 values.
extern "C" __global__ void __launch_bounds__(256, 1)
linear_wgmma_bf16(float* out, const u16* weights, const u16* x, const float* bias, u32 rows, u32 tokens, u32 chunks, u32 stride) {
    constexpr u32 GROUP = 8;
    u32 shared = (shared_address(dynamic_shared()) + 1023) / 1024 * 1024;
    u8* ring = dynamic_shared() + (shared - shared_address(dynamic_shared()));

    u32 row_tiles = ceil_div(rows, ROWS), token_tiles = ceil_div(tokens, TOKENS);
    u32 group = blockIdx.x / (GROUP * token_tiles), inside = blockIdx.x % (GROUP * token_tiles);
    u32 height = min(GROUP, row_tiles - group * GROUP);
    u32 first_row = (group * GROUP + inside % height) * ROWS, first_token = inside / height * TOKENS;
    start_next_kernel();
    wait_for_previous_kernel();

    // This thread's 16 bytes of every 32nd row. Rows behind the end are read as the last one, and their products not written.
    u32 own = threadIdx.x / 8, eighth = threadIdx.x % 8, to = own * 128 + (eighth ^ own % 8) * 16;
    auto fetch = [&](u32 chunk) {
        if (chunk < chunks) {
            u8* tile = ring + chunk % STAGES * STAGE_BYTES + to;
            u64 column = chunk * CHUNK + eighth * 8;
#pragma unroll
            for (u32 i = 0; i < TOKENS / 32; i++) {
                u64 token = min(first_token + own + 32 * i, tokens - 1);
                cp_async16(tile + i * 4096, x + token * chunks * CHUNK + column);
            }
#pragma unroll
            for (u32 i = 0; i < ROWS / 32; i++) {
                u64 row = min(first_row + own + 32 * i, rows - 1);
                cp_async16(tile + TOKENS * 128 + i * 4096, weights + row * chunks * CHUNK + column);
            }
        }
        cp_async_commit(); // also where there is nothing left, so that groups can be counted
    };
    fetch(0);
    fetch(1);

    float sums[2][64] = {};
    u32 warpgroup = threadIdx.x / 128;
#pragma unroll 1
    for (u32 chunk = 0; chunk < chunks; chunk++) {
        cp_async_wait<1>();
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); // what was copied is seen by the tensor cores
        __syncthreads(); // both warpgroups have the tile, and both are done with the products of the tile before the last
        u32 tile = shared + chunk % STAGES * STAGE_BYTES;
        u64 a = descriptor(tile + warpgroup * (64 * 128)), b = descriptor(tile + TOKENS * 128);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (u32 k = 0; k < CHUNK / 16; k++) { // 32 bytes further in each row, in units of 16
            multiply(sums[0], a + 2 * k, b + 2 * k);
            multiply(sums[1], a + 2 * k, b + 2 * k + (128 * 128 >> 4));
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        fetch(chunk + 2); // where the tile before the last was
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory"); // the tile before
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");

    u32 token = first_token + warpgroup * 64 + warp_id() % 4 * 16 + lane_id() / 4, row = first_row + lane_id() % 4 * 2;
#pragma unroll
    for (u32 n = 0; n < 32; n++) {
        u32 at = row + 8 * n;
        if (at >= rows) break;
        float low = bias ? bias[at] : 0.0f, high = bias && at + 1 < rows ? bias[at + 1] : 0.0f;
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            if (token + 8 * half >= tokens) continue;
            float* pair = out + (u64)(token + 8 * half) * stride + at;
            pair[0] = sums[n / 16][n % 16 * 4 + 2 * half] + low;
            if (at + 1 < rows) pair[1] = sums[n / 16][n % 16 * 4 + 2 * half + 1] + high;
        }
    }
}
GLM_KERNEL(linear_wgmma_bf16)

#endif
