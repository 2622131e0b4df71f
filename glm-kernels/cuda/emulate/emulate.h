// CUDA C++ for the host: with this in front, `prelude.cu` and a kernel's source compile as C++17 and run on the CPU, thread by
// thread, so that the very sources that a GPU runs are tested where there is none.
//
//     c++ -x c++ -std=c++17 -O1 -fPIC -shared -DGLM_EMULATED -include emulate.h -include prelude.cu rms_norm.cu -o rms_norm.so
//
// What the kernels' sources may use is here and in `prelude.cu`; what needs PTX stands there in two forms. Each kernel `NAME`
// that the source names with GLM_KERNEL(NAME) is launched with
//
//     const char* glm_launch_NAME(const unsigned grid[3], const unsigned block[3], unsigned shared_bytes, void** arguments);
//
// where `arguments` is what cuLaunchKernel takes and the result is null or a message, which lives until the thread's next launch.
// A library must stay loaded. Threads of the host may launch at the same time.
//
// Found here as a message: threads that miss a barrier or a collective, collectives that do not match, writes past dynamic shared
// memory, misaligned 16-byte accesses (prelude). Found as NaN: shared memory that was never written, in each block anew, and
// cp.async data that is read before it was waited for. Races are found only where the order of warps changes the result. Not
// emulated: timing, the limits of registers, bank conflicts, memory models weaker than sequential.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __constant__ static
#define __shared__ static thread_local
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __grid_constant__

#define GLM_KERNEL(name)                                                                                                         \
    extern "C" __attribute__((visibility("default"))) const char* glm_launch_##name(                                             \
        const unsigned* grid, const unsigned* block, unsigned shared, void** arguments) {                                        \
        return emulate::launch(name, grid, block, shared, arguments);                                                            \
    }

#define threadIdx (emulate::running->lane().thread)
#define blockIdx (emulate::running->index)
#define blockDim (emulate::running->launch.block)
#define gridDim (emulate::running->launch.grid)
constexpr int warpSize = 32;

struct __attribute__((aligned(8))) float2 { float x, y; };
struct __attribute__((aligned(16))) float4 { float x, y, z, w; };
struct __attribute__((aligned(8))) int2 { int x, y; };
struct __attribute__((aligned(16))) int4 { int x, y, z, w; };
struct __attribute__((aligned(8))) uint2 { unsigned x, y; };
struct __attribute__((aligned(16))) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// --- arithmetic -----------------------------------------------------------------------------------------------------------

template <class To, class From> inline To emulate_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
inline unsigned __float_as_uint(float x) { return emulate_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emulate_bits<float>(x); }
inline int __float_as_int(float x) { return emulate_bits<int>(x); }
inline float __int_as_float(int x) { return emulate_bits<float>(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __int2float_rn(int x) { return float(x); }
inline int __float2int_rn(float x) { return int(std::nearbyint(x)); }
inline unsigned __popc(unsigned x) { return unsigned(__builtin_popcount(x)); }
inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(unsigned x) { return __builtin_ffs(int(x)); }
inline unsigned __brev(unsigned x) {
    unsigned out = 0;
    for (int i = 0; i < 32; i++) out |= (x >> i & 1) << (31 - i);
    return out;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(std::uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    std::uint64_t bytes = std::uint64_t(b) << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned pick = selector >> (4 * i) & 15;
        unsigned byte = unsigned(bytes >> (8 * (pick & 7))) & 255;
        if (pick & 8) byte = byte & 128 ? 255 : 0;
        out |= byte << (8 * i);
    }
    return out;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((std::uint64_t(high) << 32 | low) >> (shift & 31));
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }
inline unsigned long long min(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
inline unsigned long long max(unsigned long long a, unsigned long long b) { return a > b ? a : b; }

// --- the block ------------------------------------------------------------------------------------------------------------

inline int emulate_barrier(int value) {
    emulate::Block& block = *emulate::running;
    return block.arrive_and_wait(0, block.launch.block.count(), value);
}
inline void __syncthreads() { emulate_barrier(0); }
inline int __syncthreads_count(int predicate) { return emulate_barrier(predicate != 0); }
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
inline int __syncthreads_and(int predicate) { return __syncthreads_count(!predicate) == 0; }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) {}

// --- the warp -------------------------------------------------------------------------------------------------------------

namespace emulate {

struct Shuffle {
    std::uint64_t value, result;
    unsigned source;
};

inline void shuffle(Meeting& meeting) {
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (!(meeting.mask >> lane & 1)) continue;
        Shuffle& mine = *static_cast<Shuffle*>(meeting.brought[lane]);
        // CUDA leaves it undefined to read from a lane outside the mask: here it is poison.
        bool there = meeting.mask >> mine.source & 1;
        mine.result = there ? static_cast<Shuffle*>(meeting.brought[mine.source])->value : ~std::uint64_t(0);
    }
}

template <class T> T shuffled(const char* operation, unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most eight bytes");
    Shuffle brought{0, 0, source};
    std::memcpy(&brought.value, &value, sizeof value);
    running->meet(operation, mask, &brought, shuffle);
    std::memcpy(&value, &brought.result, sizeof value);
    return value;
}

struct Vote {
    bool predicate;
    unsigned result;
};

inline void vote(Meeting& meeting) {
    unsigned votes = 0;
    for (unsigned lane = 0; lane < WARP; lane++)
        if (meeting.mask >> lane & 1) votes |= unsigned(static_cast<Vote*>(meeting.brought[lane])->predicate) << lane;
    for (unsigned lane = 0; lane < WARP; lane++)
        if (meeting.mask >> lane & 1) static_cast<Vote*>(meeting.brought[lane])->result = votes;
}

inline unsigned lane_of_warp() { return running->current % WARP; }

} // namespace emulate

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    unsigned lane = emulate::lane_of_warp();
    return emulate::shuffled("__shfl_sync", mask, value, (lane & ~unsigned(width - 1)) | (unsigned(source) & unsigned(width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    unsigned lane = emulate::lane_of_warp(), source = lane ^ unsigned(bits);
    bool inside = (source & ~unsigned(width - 1)) <= (lane & ~unsigned(width - 1));
    return emulate::shuffled("__shfl_xor_sync", mask, value, inside ? source : lane);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned lane = emulate::lane_of_warp(), last = lane | unsigned(width - 1);
    return emulate::shuffled("__shfl_down_sync", mask, value, lane + delta > last ? lane : lane + delta);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned lane = emulate::lane_of_warp(), first = lane & ~unsigned(width - 1);
    return emulate::shuffled("__shfl_up_sync", mask, value, lane < first + delta ? lane : lane - delta);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    emulate::Vote brought{predicate != 0, 0};
    emulate::running->meet("__ballot_sync", mask, &brought, emulate::vote);
    return brought.result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
inline void __syncwarp(unsigned mask = ~0u) {
    emulate::running->meet("__syncwarp", mask, nullptr, [](emulate::Meeting&) {});
}

// --- atomics: blocks run one after the other, and a thread is not interrupted ------------------------------------------------

template <class T> T emulate_exchange(T* at, T value) {
    T before = *at;
    *at = value;
    return before;
}
template <class T, class U> T atomicAdd(T* at, U value) { return emulate_exchange(at, T(*at + T(value))); }
template <class T, class U> T atomicSub(T* at, U value) { return emulate_exchange(at, T(*at - T(value))); }
template <class T, class U> T atomicMax(T* at, U value) { return emulate_exchange(at, *at > T(value) ? *at : T(value)); }
template <class T, class U> T atomicMin(T* at, U value) { return emulate_exchange(at, *at < T(value) ? *at : T(value)); }
template <class T, class U> T atomicOr(T* at, U value) { return emulate_exchange(at, T(*at | T(value))); }
template <class T, class U> T atomicAnd(T* at, U value) { return emulate_exchange(at, T(*at & T(value))); }
template <class T, class U> T atomicExch(T* at, U value) { return emulate_exchange(at, T(value)); }
template <class T, class U, class V> T atomicCAS(T* at, U expected, V value) {
    return emulate_exchange(at, *at == T(expected) ? T(value) : *at);
}
inline unsigned atomicInc(unsigned* at, unsigned last) { return emulate_exchange(at, *at >= last ? 0 : *at + 1); }

// --- what prelude.cu builds on ---------------------------------------------------------------------------------------------

namespace emulate {

inline unsigned char* shared_memory() { return running->dynamic_shared(); }

inline void check_aligned(const void* pointer, std::size_t bytes, const char* operation) {
    if (reinterpret_cast<std::uintptr_t>(pointer) % bytes != 0)
        running->fail("%s: the address is not a multiple of %zu", operation, bytes);
}

// The newest copies arrive last: as late as the program lets them.
inline void copy_later(void* to, const void* from, unsigned bytes, unsigned filled) {
    check_aligned(to, filled, "cp.async to shared memory");
    if (bytes) check_aligned(from, filled, "cp.async from global memory");
    running->lane().groups.back().push_back({to, from, bytes, filled});
}
inline void close_group() { running->lane().groups.emplace_back(); }
inline void wait_for_groups(std::size_t pending) {
    auto& groups = running->lane().groups;
    while (groups.size() > pending + 1) {
        for (const Copy& copy : groups.front()) {
            std::memcpy(copy.to, copy.from, copy.bytes);
            std::memset(static_cast<char*>(copy.to) + copy.bytes, 0, copy.filled - copy.bytes);
        }
        groups.erase(groups.begin());
    }
}

} // namespace emulate
