// RMSNorm of rows, alone or after a residual addition; that addition alone, or of something normalised.
//
// One block per row. A thread keeps its part of the row in registers between the sum and the scaling, so a row is read once.
// The order of the sum depends on the number of columns alone (the launcher derives the number of threads from it).

// Vectors that a thread keeps: rows of up to HELD * 1024 vectors are read once, what is beyond that twice.
#define HELD 4

static __device__ __forceinline__ float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
static __device__ __forceinline__ float plus(float a, float b) { return a + b; }
static __device__ __forceinline__ float square(float4 a) { return a.x * a.x + a.y * a.y + (a.z * a.z + a.w * a.w); }
static __device__ __forceinline__ float square(float a) { return a * a; }
static __device__ __forceinline__ float4 scaled(float4 a, float s, float4 w) {
    return make_float4(a.x * s * w.x, a.y * s * w.y, a.z * s * w.z, a.w * s * w.w);
}
static __device__ __forceinline__ float scaled(float a, float s, float w) { return a * s * w; }

// `row` is normalised into `out`; with ADD, `x` is added to it first, in place. `len` vectors V of `columns` numbers.
template <class V, bool ADD>
static __device__ __forceinline__ void norm_row(V* row, const V* x, const V* weight, float eps, V* out, u32 len, u32 columns) {
    __shared__ float scratch[33];
    auto load = [&](u32 i) {
        V value = row[i];
        if (ADD) {
            value = plus(value, x[i]);
            row[i] = value;
        }
        return value;
    };
    V held[HELD];
    float sum = 0.0f;
#pragma unroll
    for (u32 k = 0; k < HELD; k++) {
        u32 i = k * blockDim.x + threadIdx.x;
        if (i < len) {
            held[k] = load(i);
            sum += square(held[k]);
        }
    }
#pragma unroll 1
    for (u32 i = HELD * blockDim.x + threadIdx.x; i < len; i += blockDim.x) sum += square(load(i));
    float scale = rsqrtf(block_sum(sum, scratch) / (float)columns + eps);
#pragma unroll
    for (u32 k = 0; k < HELD; k++) {
        u32 i = k * blockDim.x + threadIdx.x;
        if (i < len) out[i] = scaled(held[k], scale, weight[i]);
    }
#pragma unroll 1
    for (u32 i = HELD * blockDim.x + threadIdx.x; i < len; i += blockDim.x) out[i] = scaled(row[i], scale, weight[i]);
}

// Grid: rows. Four columns at a time; `columns` is a multiple of 4.
extern "C" __global__ void __launch_bounds__(1024, 1)
    rms_norm_vectors(const float* x, const float* weight, float eps, float* out, u32 columns) {
    wait_for_previous_kernel();
    start_next_kernel();
    u64 start = (u64)blockIdx.x * columns;
    norm_row<float4, false>((float4*)(x + start), nullptr, (const float4*)weight, eps, (float4*)(out + start), columns / 4, columns);
}
GLM_KERNEL(rms_norm_vectors)

// Grid: rows. Any number of columns.
extern "C" __global__ void __launch_bounds__(1024, 1)
    rms_norm_any(const float* x, const float* weight, float eps, float* out, u32 columns) {
    wait_for_previous_kernel();
    start_next_kernel();
    u64 start = (u64)blockIdx.x * columns;
    norm_row<float, false>((float*)x + start, nullptr, weight, eps, out + start, columns, columns);
}
GLM_KERNEL(rms_norm_any)

// As rms_norm_vectors, of `residual` after `x` was added to it in place.
extern "C" __global__ void __launch_bounds__(1024, 1)
    rms_norm_add_vectors(float* residual, const float* x, const float* weight, float eps, float* out, u32 columns) {
    wait_for_previous_kernel();
    start_next_kernel();
    u64 start = (u64)blockIdx.x * columns;
    norm_row<float4, true>((float4*)(residual + start), (const float4*)(x + start), (const float4*)weight, eps, (float4*)(out + start),
                           columns / 4, columns);
}
GLM_KERNEL(rms_norm_add_vectors)

// As rms_norm_any, of `residual` after `x` was added to it in place.
extern "C" __global__ void __launch_bounds__(1024, 1)
    rms_norm_add_any(float* residual, const float* x, const float* weight, float eps, float* out, u32 columns) {
    wait_for_previous_kernel();
    start_next_kernel();
    u64 start = (u64)blockIdx.x * columns;
    norm_row<float, true>(residual + start, x + start, weight, eps, out + start, columns, columns);
}
GLM_KERNEL(rms_norm_add_any)

// `row += norm(x)`, and with NORM `out` is the norm of the sum. One launch for what stands between two matrices where a model
// normalises the outputs of attention and MLP too.
template <class V, bool NORM>
static __device__ __forceinline__ void add_normed_row(V* row, const V* x, const V* x_weight, float x_eps, const V* weight, float eps, V* out,
                                                      u32 len, u32 columns) {
    __shared__ float scratch[33];
    V held[HELD];
    float sum = 0.0f;
#pragma unroll
    for (u32 k = 0; k < HELD; k++) {
        u32 i = k * blockDim.x + threadIdx.x;
        if (i < len) {
            held[k] = x[i];
            sum += square(held[k]);
        }
    }
#pragma unroll 1
    for (u32 i = HELD * blockDim.x + threadIdx.x; i < len; i += blockDim.x) sum += square(x[i]);
    float scale = rsqrtf(block_sum(sum, scratch) / (float)columns + x_eps);
    sum = 0.0f;
    auto add = [&](u32 i, V value) {
        V result = plus(row[i], scaled(value, scale, x_weight[i]));
        row[i] = result;
        sum += square(result);
        return result;
    };
#pragma unroll
    for (u32 k = 0; k < HELD; k++) {
        u32 i = k * blockDim.x + threadIdx.x;
        if (i < len) held[k] = add(i, held[k]);
    }
#pragma unroll 1
    for (u32 i = HELD * blockDim.x + threadIdx.x; i < len; i += blockDim.x) add(i, x[i]);
    if (!NORM) return;
    scale = rsqrtf(block_sum(sum, scratch) / (float)columns + eps);
#pragma unroll
    for (u32 k = 0; k < HELD; k++) {
        u32 i = k * blockDim.x + threadIdx.x;
        if (i < len) out[i] = scaled(held[k], scale, weight[i]);
    }
#pragma unroll 1
    for (u32 i = HELD * blockDim.x + threadIdx.x; i < len; i += blockDim.x) out[i] = scaled(row[i], scale, weight[i]);
}

// Grid: rows. Four columns at a time where `columns` is a multiple of 4.
#define ADD_NORMED(name, V, WIDTH, NORM)                                                                                         \
    extern "C" __global__ void __launch_bounds__(1024, 1)                                                                        \
        name(float* residual, const float* x, const float* x_weight, float x_eps, const float* weight, float eps, float* out,    \
             u32 columns) {                                                                                                      \
        wait_for_previous_kernel();                                                                                              \
        start_next_kernel();                                                                                                     \
        u64 start = (u64)blockIdx.x * columns;                                                                                   \
        add_normed_row<V, NORM>((V*)(residual + start), (const V*)(x + start), (const V*)x_weight, x_eps, (const V*)weight, eps, \
                                (V*)(out + (NORM ? start : 0)), columns / WIDTH, columns);                                       \
    }                                                                                                                            \
    GLM_KERNEL(name)

ADD_NORMED(rms_norm_add_normed_vectors, float4, 4, false)
ADD_NORMED(rms_norm_add_normed_any, float, 1, false)
ADD_NORMED(rms_norm_add_normed_norm_vectors, float4, 4, true)
ADD_NORMED(rms_norm_add_normed_norm_any, float, 1, true)

// `residual += x`, element by element. Grid: blocks of `4 * blockDim.x` numbers.
extern "C" __global__ void __launch_bounds__(256, 6) rms_norm_residual_add(float* residual, const float* x, u64 len) {
    wait_for_previous_kernel();
    start_next_kernel();
    u64 i = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i + 4 <= len) {
        *(float4*)(residual + i) = plus(*(const float4*)(residual + i), *(const float4*)(x + i));
    } else {
        for (; i < len; i++) residual[i] += x[i];
    }
}
GLM_KERNEL(rms_norm_residual_add)
