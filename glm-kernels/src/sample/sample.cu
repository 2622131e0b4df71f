// Chooses the next token of each row of logits. One block per row; the rules are those of `mod.rs`.
//
// Weights are whole numbers, 2^40 for the most likely token, so sums do not depend on their order and everything after them is
// exact. A row is read three times, from the second-level cache: for the largest logit, for the sum of the weights (counted
// apart for some depths below the largest), and for the tokens down to the least depth that surely holds whatever can be drawn.
// Those are sorted and drawn from. Where they are more than LIST, which takes a nearly flat distribution, the row is left to the
// host.

#define THREADS 512u
#define LIST 4096u
#define PER_THREAD (LIST / THREADS)
#define ONE 1099511627776.0f // 2^40: the weight of the largest logit
#define DEEPEST 40.0f        // tokens at this depth and below weigh nothing
#define DEPTHS 6u
#define ALL (DEPTHS - 1)     // the number of the depth that holds all tokens that weigh something

// What is chosen instead of a token.
#define NOT_FINITE 0xffffffffu
#define LEFT_TO_HOST 0xfffffffeu

// Depths are differences to the largest logit in units of ln(2) * temperature: a weight is 2^-depth.
static __device__ __forceinline__ float depth_at(u32 i) {
    const float depths[DEPTHS] = {2.0f, 4.0f, 7.0f, 11.0f, 18.0f, DEEPEST};
    return depths[i];
}
static __device__ __forceinline__ u64 weight_of(float depth) { return depth < DEEPEST ? (u64)(exp2_fast(-depth) * ONE) : 0; }

// Larger numbers have larger keys; -0 is below 0.
static __device__ __forceinline__ u32 key_of(float x) {
    u32 bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
static __device__ __forceinline__ float of_key(u32 key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }
// Sorts by logit and, among equals, by id, smallest first, if the largest entry comes first.
static __device__ __forceinline__ u64 entry_of(float logit, u32 id) { return (u64)key_of(logit) << 32 | ~id; }

struct Larger {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a > b ? a : b; }
};
struct Plus {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};

// The same for every thread, and for floats the same in every launch: the order is that of the threads.
template <class T, class Op> static __device__ __forceinline__ T block_reduce(T x, T* scratch, Op op) {
#pragma unroll
    for (int bits = 16; bits > 0; bits >>= 1) x = op(x, __shfl_xor_sync(FULL_MASK, x, bits));
    __syncthreads(); // whoever still reads the last result
    if (lane_id() == 0) scratch[warp_id()] = x;
    __syncthreads();
    x = scratch[lane_id() % (THREADS / WARP_SIZE)];
#pragma unroll
    for (int bits = THREADS / WARP_SIZE / 2; bits > 0; bits >>= 1) x = op(x, __shfl_xor_sync(FULL_MASK, x, bits));
    return x;
}

// Calls `visit(id, logit)` for what is not NaN.
template <class F> static __device__ __forceinline__ void for_each_number(const float* logits, u32 len, F visit) {
    auto number = [&](u32 id, float logit) {
        if (logit == logit) visit(id, logit);
    };
    if (len % 4 == 0) {
#pragma unroll 4
        for (u32 i = threadIdx.x * 4; i < len; i += THREADS * 4) {
            float4 x = *(const float4*)(logits + i);
            number(i, x.x);
            number(i + 1, x.y);
            number(i + 2, x.z);
            number(i + 3, x.w);
        }
    } else {
        for (u32 i = threadIdx.x; i < len; i += THREADS) number(i, logits[i]);
    }
}

// The sum of `x` over this thread and all before; `total` becomes that over all.
static __device__ __forceinline__ u64 block_scan(u64 x, u64* scratch, u64& total) {
#pragma unroll
    for (u32 step = 1; step < WARP_SIZE; step *= 2) {
        u64 before = __shfl_up_sync(FULL_MASK, x, step);
        if (lane_id() >= step) x += before;
    }
    __syncthreads(); // whoever still reads the last result
    if (lane_id() == WARP_SIZE - 1) scratch[warp_id()] = x;
    __syncthreads();
    u64 before = 0;
    total = 0;
    for (u32 warp = 0; warp < THREADS / WARP_SIZE; warp++) {
        if (warp < warp_id()) before += scratch[warp];
        total += scratch[warp];
    }
    return before + x;
}

// Largest first; `len` is a power of two.
static __device__ __forceinline__ void sort(u64* list, u32 len) {
    for (u32 run = 2; run <= len; run *= 2)
        for (u32 step = run / 2; step > 0; step /= 2) {
            __syncthreads();
            for (u32 i = threadIdx.x; i < len / 2; i += THREADS) {
                u32 a = i / step * 2 * step + i % step, b = a + step;
                bool descending = (a & run) == 0;
                u64 x = list[a], y = list[b];
                if ((x < y) == descending) {
                    list[a] = y;
                    list[b] = x;
                }
            }
        }
    __syncthreads();
}

// What a request asks for, as it is uploaded.
struct Rules {
    float temperature; // 0: the most likely token
    u32 top_k;         // 0: all
    float top_p, min_p;
    u64 uniform;  // where to draw, in units of 2^-64 of the weight
    u32 mask;     // the row of masks, or NO_MASK
    u32 logprobs; // whether the log-probability is wanted
};
#define NO_MASK 0xffffffffu

// The number of the least depth whose tokens decide what is drawn.
static __device__ __forceinline__ u32 least_depth(const Rules& rules, const u32 (&counts)[DEPTHS], const u64 (&masses)[DEPTHS]) {
    u64 nucleus = (u64)((double)rules.top_p * (double)masses[ALL]), target = __umul64hi(rules.uniform, masses[ALL]);
    u32 level = ALL;
#pragma unroll
    for (u32 i = ALL; i-- > 0;) {
        bool enough;
        if (rules.top_k > 0) enough = counts[i] >= rules.top_k;
        else if (rules.top_p < 1.0f) enough = masses[i] >= nucleus;
        else if (rules.min_p > 0.0f) enough = exp2_fast(-depth_at(i)) < rules.min_p;
        else enough = masses[i] > target;
        if (enough) level = i;
    }
    return level;
}

// Draws from `count` sorted tokens; the thread that has the chosen one says so.
template <class Chosen>
static __device__ __forceinline__ void draw(const u64* list, u32 count, float max, float units, const Rules& rules, u64 all, u64* scratch,
                                            Chosen chosen) {
    __shared__ u64 kept_mass, top_mass;
    u64 weights[PER_THREAD], sum = 0, ignored;
    u32 first = threadIdx.x * PER_THREAD, limit = rules.top_k > 0 ? min(rules.top_k, count) : count;
#pragma unroll
    for (u32 i = 0; i < PER_THREAD; i++) {
        weights[i] = first + i < limit ? weight_of((max - of_key((u32)(list[first + i] >> 32))) * units) : 0;
        sum += weights[i];
    }
    u64 start = block_scan(sum, scratch, ignored) - sum;
    if (threadIdx.x == 0) top_mass = ignored;
    __syncthreads();
    // Without top_k the nucleus is a share of all tokens, not only of those in the list.
    u64 nucleus = rules.top_p < 1.0f ? (u64)((double)rules.top_p * (double)(rules.top_k > 0 ? top_mass : all)) : ~(u64)0;
    u64 before = start, kept = 0;
#pragma unroll
    for (u32 i = 0; i < PER_THREAD; i++) {
        float share = exp2_fast((of_key((u32)(list[first + i] >> 32)) - max) * units);
        bool keep = first + i < limit && (first + i == 0 || (before < nucleus && share >= rules.min_p));
        before += weights[i];
        if (!keep) weights[i] = 0;
        kept += weights[i];
    }
    u64 ends = block_scan(kept, scratch, ignored);
    if (threadIdx.x == 0) {
        bool limited = rules.top_k > 0 || rules.top_p < 1.0f || rules.min_p > 0.0f;
        kept_mass = limited ? ignored : all;
    }
    __syncthreads();
    u64 target = __umul64hi(rules.uniform, kept_mass);
    before = ends - kept;
#pragma unroll
    for (u32 i = 0; i < PER_THREAD; i++) {
        if (before <= target && target < before + weights[i]) chosen(~(u32)list[first + i]);
        before += weights[i];
    }
}

// `out`: for each row the token and the bits of its log-probability. `masks`: [masks, ceil(len / 32)] bits of allowed tokens.
extern "C" __global__ void __launch_bounds__(THREADS, 1) sample(const float* logits, const Rules* all_rules, const u32* masks, u32* out, u32 len) {
    __shared__ u64 list[LIST];
    __shared__ u64 scratch[WARP_SIZE];
    __shared__ u32 listed, token;
    wait_for_previous_kernel();
    start_next_kernel();
    logits += (u64)blockIdx.x * len;
    out += 2 * blockIdx.x;
    const Rules rules = all_rules[blockIdx.x];
    const u32* mask = rules.mask == NO_MASK ? nullptr : masks + (u64)rules.mask * ceil_div(len, 32);
    auto allowed = [&](u32 id) { return !mask || (mask[id / 32] >> id % 32 & 1); };

    u64 best = 0;
    float raw_max = -INFINITE;
    for_each_number(logits, len, [&](u32 id, float logit) {
        raw_max = fmaxf(raw_max, logit);
        if (allowed(id)) best = Larger()(best, entry_of(logit, id));
    });
    best = block_reduce(best, scratch, Larger());
    raw_max = block_reduce(raw_max, (float*)scratch, Larger());
    float max = of_key((u32)(best >> 32));
    if (best == 0 || !(max > -INFINITE && max < INFINITE)) {
        if (threadIdx.x == 0) out[0] = NOT_FINITE;
        return;
    }
    if (threadIdx.x == 0) {
        token = ~(u32)best;
        listed = 0;
    }
    if (rules.temperature == 0.0f && !rules.logprobs) {
        if (threadIdx.x == 0) out[0] = token;
        return;
    }

    bool draws = rules.temperature > 0.0f;
    float units = draws ? LOG2_E / rules.temperature : 0.0f, raw_sum = 0.0f;
    u32 counts[DEPTHS] = {};
    u64 masses[DEPTHS] = {};
    for_each_number(logits, len, [&](u32 id, float logit) {
        if (rules.logprobs) raw_sum += exp2_fast((logit - raw_max) * LOG2_E);
        if (!draws || !allowed(id)) return;
        float depth = (max - logit) * units;
        u64 weight = weight_of(depth);
        if (weight > 0) {
            counts[ALL]++;
            masses[ALL] += weight;
            if (depth < depth_at(ALL - 1)) {
#pragma unroll
                for (u32 i = 0; i < ALL; i++)
                    if (depth < depth_at(i)) {
                        counts[i]++;
                        masses[i] += weight;
                    }
            }
        }
    });
    if (rules.logprobs) raw_sum = block_reduce(raw_sum, (float*)scratch, Plus());
    if (draws) {
#pragma unroll
        for (u32 i = 0; i <= ALL; i++) {
            counts[i] = block_reduce(counts[i], (u32*)scratch, Plus());
            masses[i] = block_reduce(masses[i], scratch, Plus());
        }
        u32 level = least_depth(rules, counts, masses), count = 0;
        float deepest = 0.0f;
#pragma unroll
        for (u32 i = 0; i <= ALL; i++)
            if (i == level) {
                count = counts[i];
                deepest = depth_at(i);
            }
        if (count > LIST) {
            if (threadIdx.x == 0) out[0] = LEFT_TO_HOST;
            return;
        }
        for (u32 i = threadIdx.x; i < LIST; i += THREADS) list[i] = 0;
        __syncthreads();
        for_each_number(logits, len, [&](u32 id, float logit) {
            float depth = (max - logit) * units;
            if (depth < deepest && weight_of(depth) > 0 && allowed(id)) list[atomicAdd(&listed, 1u)] = entry_of(logit, id);
        });
        u32 padded = 2;
        while (padded < count) padded *= 2;
        sort(list, padded);
        draw(list, count, max, units, rules, masses[ALL], scratch, [&](u32 id) { token = id; });
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        out[0] = token;
        out[1] = __float_as_uint((logits[token] - raw_max) - logf(raw_sum));
    }
}
GLM_KERNEL(sample)
