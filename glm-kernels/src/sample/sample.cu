// Chooses the next token of each row of logits. One block per row; the rules are those of `mod.rs`.
//
// Weights are whole numbers, 2^40 for the most likely token, so sums do not depend on their order and everything after them is
// exact. A row is read three times, from the second-level cache: for the largest logit, for the sum of the weights (counted
// apart for some depths below the largest), and for the tokens down to the least depth that surely holds whatever can be drawn.
// Those are sorted and drawn from. Where they are more than LIST, which takes a nearly flat distribution, the tokens at which
// the rules cut are found by bisection instead, each in some twenty readings. Before all that a row is read once for the
// log-probabilities, if they are wanted, and once for each of the most likely tokens that are.

#define THREADS 512u
#define LIST 4096u
#define PER_THREAD (LIST / THREADS)
#define ONE 1099511627776.0f // 2^40: the weight of the largest logit
#define DEEPEST 40.0f        // tokens at this depth and below weigh nothing
#define DEPTHS 6u
#define ALL (DEPTHS - 1)     // the number of the depth that holds all tokens that weigh something

// In the place of a token where there is none.
#define NO_TOKEN 0xffffffffu

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
static __device__ __forceinline__ float logit_of(u64 entry) { return of_key((u32)(entry >> 32)); }
static __device__ __forceinline__ u32 id_of(u64 entry) { return ~(u32)entry; }

struct Larger {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a > b ? a : b; }
};
struct Smaller {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a < b ? a : b; }
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
    u64 uniform; // where to draw, in units of 2^-64 of the weight
    u32 mask;    // the row of masks, or NO_MASK
    u32 logprob; // whether the log-probability is wanted
    u32 top;     // of how many of the most likely tokens it is wanted besides
    u32 first_edit, edits;
    u32 padding;
};
#define NO_MASK 0xffffffffu

// What is done to a logit before anything is chosen.
struct Edit {
    u32 id;
    float bias; // once the edit was applied: the logit that the model gave
    float repetition, penalty;
};

// Logits, and which of them may be chosen.
struct Row {
    const float* logits;
    u32 len;
    const u32* mask; // bits, or null
    __device__ __forceinline__ bool allows(u32 id) const { return !mask || (mask[id / 32] >> id % 32 & 1); }
};

struct Softmax {
    float max, log_sum;
    __device__ __forceinline__ float logprob(float logit) const { return (logit - max) - log_sum; }
};

static __device__ __forceinline__ Softmax softmax_of(const float* logits, u32 len, u64* scratch) {
    float max = -INFINITE, sum = 0.0f;
    for_each_number(logits, len, [&](u32, float logit) {
        if (logit > max) {
            sum *= exp2_fast((max - logit) * LOG2_E);
            max = logit;
        } else if (logit == -INFINITE) {
            return;
        }
        sum += exp2_fast((logit - max) * LOG2_E);
    });
    float largest = block_reduce(max, (float*)scratch, Larger());
    sum = block_reduce(sum * exp2_fast((max - largest) * LOG2_E), (float*)scratch, Plus());
    return {largest, logf(sum)};
}

// Writes the most likely tokens, each with its log-probability; NO_TOKEN is behind the last if there are fewer.
static __device__ __forceinline__ void report_top(const float* logits, u32 len, u32 count, const Softmax& softmax, u32* out,
                                                  u64* scratch) {
    u64 last = ~(u64)0;
    for (u32 i = 0; i < count && last > 0; i++) {
        u64 next = 0;
        for_each_number(logits, len, [&](u32 id, float logit) {
            u64 entry = entry_of(logit, id);
            if (entry < last && entry > next) next = entry;
        });
        last = block_reduce(next, scratch, Larger());
        if (threadIdx.x == 0) {
            out[2 * i] = last > 0 ? id_of(last) : NO_TOKEN;
            out[2 * i + 1] = __float_as_uint(softmax.logprob(logit_of(last)));
        }
    }
}

// Every step rounds by itself, as on the host: nothing is fused. All edits are of different tokens.
static __device__ __forceinline__ void apply(Edit* edits, u32 count, float* logits) {
    __syncthreads(); // whoever still reads the row
    for (u32 i = threadIdx.x; i < count; i += THREADS) {
        Edit edit = edits[i];
        float before = logits[edit.id], x = __fadd_rn(before, edit.bias);
        x = x > 0.0f ? __fdiv_rn(x, edit.repetition) : __fmul_rn(x, edit.repetition);
        logits[edit.id] = __fsub_rn(x, edit.penalty);
        edits[i].bias = before;
    }
    __syncthreads();
}

// The logit that the model gave for a token.
static __device__ __forceinline__ float before_edits(const Edit* edits, u32 count, const float* logits, u32 token) {
    __shared__ float found;
    if (threadIdx.x == 0) found = logits[token];
    __syncthreads();
    for (u32 i = threadIdx.x; i < count; i += THREADS)
        if (edits[i].id == token) found = edits[i].bias;
    __syncthreads();
    return found;
}

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
static __device__ __forceinline__ void draw_from_list(const u64* list, u32 count, float max, float units, const Rules& rules,
                                                      u64 all, u64* scratch, Chosen chosen) {
    __shared__ u64 kept_mass, top_mass;
    u64 weights[PER_THREAD], sum = 0, ignored;
    u32 first = threadIdx.x * PER_THREAD, limit = rules.top_k > 0 ? min(rules.top_k, count) : count;
#pragma unroll
    for (u32 i = 0; i < PER_THREAD; i++) {
        weights[i] = first + i < limit ? weight_of((max - logit_of(list[first + i])) * units) : 0;
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
        float share = exp2_fast((logit_of(list[first + i]) - max) * units);
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
        if (before <= target && target < before + weights[i]) chosen(id_of(list[first + i]));
        before += weights[i];
    }
}

// With all entries in order, largest first, and their values `of(logit)` summed one after the other: the entry that brings the
// sum above `goal`, which it comes to with the last one. `best` is the first.
template <class Of> static __device__ __forceinline__ u64 find(const Row& row, u64 best, u64 goal, u64* scratch, Of of) {
    u64 low = 0, high = best;
    while (low < high) {
        u64 middle = high - (high - low) / 2, sum = 0, above = high, below = low;
        for_each_number(row.logits, row.len, [&](u32 id, float logit) {
            u64 entry = entry_of(logit, id), value = of(logit);
            if (entry < low || value == 0 || !row.allows(id)) return;
            if (entry >= middle) {
                sum += value;
                above = min(above, entry);
            } else {
                below = max(below, entry);
            }
        });
        // The next bound is an entry, so what lies between entries is not searched.
        if (block_reduce(sum, scratch, Plus()) > goal) low = block_reduce(above, scratch, Smaller());
        else high = block_reduce(below, scratch, Larger());
    }
    return low;
}

// Draws from all `count` tokens that weigh something, without sorting them.
static __device__ __forceinline__ u32 draw_from_row(const Row& row, u64 best, float units, const Rules& rules, u32 count, u64 all,
                                                    u64* scratch) {
    float max = logit_of(best);
    auto weight = [&](float logit) { return weight_of((max - logit) * units); };
    u64 last = 0, mass = all; // the last entry that is kept, and what all together weigh
    auto weigh = [&](float min_share) {
        mass = 0;
        for_each_number(row.logits, row.len, [&](u32 id, float logit) {
            u64 entry = entry_of(logit, id);
            if (entry < last || entry > best || !row.allows(id)) return;
            if (entry == best || exp2_fast((logit - max) * units) >= min_share) mass += weight(logit);
        });
        mass = block_reduce(mass, scratch, Plus());
    };
    if (rules.top_k > 0 && rules.top_k < count) {
        last = find(row, best, rules.top_k - 1, scratch, [&](float logit) { return (u64)(weight(logit) > 0); });
        weigh(0.0f);
    }
    if (rules.top_p < 1.0f) {
        u64 nucleus = (u64)((double)rules.top_p * (double)mass);
        last = find(row, best, nucleus > 0 ? nucleus - 1 : 0, scratch, weight);
    }
    if (rules.top_p < 1.0f || rules.min_p > 0.0f) weigh(rules.min_p);
    return id_of(find(row, best, __umul64hi(rules.uniform, mass), scratch, weight));
}

// Draws a token; `best` is the entry of the most likely one.
static __device__ __forceinline__ u32 draw(const Row& row, u64 best, float units, const Rules& rules, u64* scratch) {
    __shared__ u64 list[LIST];
    __shared__ u32 listed, token;
    float max = logit_of(best);
    u32 counts[DEPTHS] = {};
    u64 masses[DEPTHS] = {};
    for_each_number(row.logits, row.len, [&](u32 id, float logit) {
        float depth = (max - logit) * units;
        u64 weight = weight_of(depth);
        if (weight == 0 || !row.allows(id)) return;
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
    });
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
    if (count > LIST) return draw_from_row(row, best, units, rules, counts[ALL], masses[ALL], scratch);
    for (u32 i = threadIdx.x; i < LIST; i += THREADS) list[i] = 0;
    if (threadIdx.x == 0) {
        listed = 0;
        token = id_of(best);
    }
    __syncthreads();
    for_each_number(row.logits, row.len, [&](u32 id, float logit) {
        float depth = (max - logit) * units;
        if (depth < deepest && weight_of(depth) > 0 && row.allows(id)) list[atomicAdd(&listed, 1u)] = entry_of(logit, id);
    });
    u32 padded = 2;
    while (padded < count) padded *= 2;
    sort(list, padded);
    draw_from_list(list, count, max, units, rules, masses[ALL], scratch, [&](u32 id) { token = id; });
    __syncthreads();
    return token;
}

// `logits`: [rows, len], where edits are made. `masks`: [masks, ceil(len / 32)] bits of allowed tokens. `out`: [rows, stride], of
// each row the token, the bits of its log-probability, and as many such pairs as the rules ask for.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    sample(float* logits, const Rules* all_rules, Edit* all_edits, const u32* masks, u32* out, u32 len, u32 stride) {
    __shared__ u64 scratch[WARP_SIZE];
    wait_for_previous_kernel();
    start_next_kernel();
    logits += (u64)blockIdx.x * len;
    out += (u64)blockIdx.x * stride;
    const Rules rules = all_rules[blockIdx.x];
    Edit* edits = all_edits + rules.first_edit;
    bool reports = rules.logprob || rules.top > 0;
    Softmax softmax = {};
    if (reports) {
        softmax = softmax_of(logits, len, scratch);
        report_top(logits, len, rules.top, softmax, out + 2, scratch);
    }
    if (rules.edits > 0) apply(edits, rules.edits, logits);

    const Row row = {logits, len, rules.mask == NO_MASK ? nullptr : masks + (u64)rules.mask * ceil_div(len, 32)};
    u64 best = 0;
    for_each_number(logits, len, [&](u32 id, float logit) {
        if (row.allows(id)) best = Larger()(best, entry_of(logit, id));
    });
    best = block_reduce(best, scratch, Larger());
    float max = logit_of(best);
    if (best == 0 || !(max > -INFINITE && max < INFINITE)) {
        if (threadIdx.x == 0) out[0] = NO_TOKEN;
        return;
    }
    u32 token = id_of(best);
    float units = LOG2_E / rules.temperature;
    if (units < INFINITE) token = draw(row, best, units, rules, scratch);
    if (reports) {
        float logprob = softmax.logprob(before_edits(edits, rules.edits, logits, token));
        if (threadIdx.x == 0) out[1] = __float_as_uint(logprob);
    }
    if (threadIdx.x == 0) out[0] = token;
}
GLM_KERNEL(sample)

// Writes ids where numbers say whose: `ids[i]` is a row of `results`, which is what `sample` wrote. Whatever follows from a row
// without a token is thrown away, so that any id does.
extern "C" __global__ void __launch_bounds__(256, 6) sample_ids(u32* ids, u32 count, const u32* results, u32 stride) {
    wait_for_previous_kernel();
    start_next_kernel();
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    u32 id = results[(u64)ids[i] * stride];
    ids[i] = id == NO_TOKEN ? 0 : id;
}
GLM_KERNEL(sample_ids)
