// A thread block: its threads as fibers, its barriers, the collectives of its warps, its shared memory.
//
// A warp runs until all its lanes wait or are done, then the next warp does. Odd blocks take the warps in reverse order, so
// that a barrier that is missing has two chances to show. What never comes true (a barrier that some threads do not reach, a
// collective that some lanes of its mask miss) is found when nobody can go on, and ends the launch with a message.
#pragma once

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <link.h>
#include <pthread.h>

#include "fiber.h"

namespace emulate {

constexpr unsigned WARP = 32;
constexpr unsigned BARRIERS = 16;
constexpr std::size_t SHARED_GUARD = 256;
constexpr unsigned char SHARED_GUARD_BYTE = 0xa5;
// All bits set: NaN in every floating-point type, and an index that is out of bounds.
constexpr unsigned char POISON = 0xff;

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
    unsigned count() const { return x * y * z; }
};

// A copy that was asked for with cp.async and has not arrived.
struct Copy {
    void* to;
    const void* from;
    unsigned bytes, filled; // `filled - bytes` zeros follow
};

struct Lane {
    Dim3 thread;
    unsigned index; // in the block
    void* stack;
    bool done;
    // It waits while `*waits_for == seen`; null if it can go on.
    const unsigned* waits_for;
    unsigned seen;
    const char* where;                    // what it waits for, for messages
    std::vector<std::vector<Copy>> groups; // of cp.async, oldest first; the last one is open
};

// Lanes that have met for one operation. They wait on their stacks, so what they brought can be read and written there.
struct Meeting {
    const char* operation = nullptr;
    unsigned mask = 0, arrived = 0, generation = 0;
    void* brought[WARP];
};

struct Barrier {
    unsigned arrived = 0, generation = 0;
    int result = 0, next = 0; // of __syncthreads_or, _and, _count
};

struct Block;

struct Launch {
    Dim3 grid, block;
    std::size_t shared;
    void (*body)(void*);
    void* context;
};

// The thread that runs now. Every other `thread_local` of the library is __shared__ (see `poison_static`).
inline thread_local Block* running = nullptr;

struct Block {
    Launch launch;
    Dim3 index;
    std::vector<Lane> lanes;
    std::vector<std::vector<Meeting>> meetings; // per warp
    Barrier barriers[BARRIERS];
    std::vector<unsigned char> shared;
    Stacks stacks;
    unsigned current = 0;
    void* host = nullptr;
    std::string failure;

    Lane& lane() { return lanes[current]; }
    unsigned char* dynamic_shared() {
        std::uintptr_t start = reinterpret_cast<std::uintptr_t>(shared.data());
        return reinterpret_cast<unsigned char*>((start + 1023) & ~std::uintptr_t(1023));
    }

    void prepare(const Launch& what) {
        launch = what;
        unsigned threads = launch.block.count();
        lanes.resize(threads);
        shared.resize(launch.shared + SHARED_GUARD + 1024);
        failure.clear();
        if (threads == 0 || threads > 1024 || launch.grid.count() == 0) fail_launch("a grid or block of that size");
        if (launch.shared > 227 * 1024) fail_launch("more than 227 KiB of shared memory");
        if (failure.empty() && !stacks.reserve(threads)) failure = "the host has no memory for the stacks";
    }

    void fail_launch(const char* what) { failure = std::string("no device can launch ") + what; }

    void run(Dim3 at) {
        index = at;
        unsigned threads = launch.block.count();
        meetings.assign((threads + WARP - 1) / WARP, {});
        for (Barrier& barrier : barriers) barrier = Barrier();
        std::memset(dynamic_shared(), POISON, launch.shared);
        std::memset(dynamic_shared() + launch.shared, SHARED_GUARD_BYTE, SHARED_GUARD);
        for (unsigned i = 0; i < threads; i++) {
            Lane& lane = lanes[i];
            lane.thread = {i % launch.block.x, i / launch.block.x % launch.block.y, i / launch.block.x / launch.block.y};
            lane.index = i;
            lane.done = false;
            lane.waits_for = nullptr;
            lane.groups.assign(1, {});
            lane.stack = stacks.start(i, enter);
        }
        current = first_of(warp_in_order(0));
        glm_fiber_switch(&host, lane().stack);
        if (failure.empty()) check();
    }

    // What a fiber starts with.
    static void enter() {
        Block& block = *running;
        block.launch.body(block.launch.context);
        block.lane().done = true;
        block.next();
    }

    // Ends the launch; the other fibers are left where they are.
    [[gnu::format(printf, 2, 3)]] void fail(const char* format, ...) {
        char text[512];
        std::va_list arguments;
        va_start(arguments, format);
        std::vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        char place[128];
        const Lane& at = lane();
        std::snprintf(place, sizeof place, "block (%u, %u, %u) thread (%u, %u, %u): ", index.x, index.y, index.z, at.thread.x,
                      at.thread.y, at.thread.z);
        failure = std::string(place) + text;
        void* lost;
        glm_fiber_switch(&lost, host);
        __builtin_unreachable();
    }

    // Lets others run until `*generation` is no longer what it is.
    void wait_for(const unsigned& generation, const char* where) {
        Lane& lane = this->lane();
        lane.waits_for = &generation;
        lane.seen = generation;
        lane.where = where;
        next();
        lane.waits_for = nullptr;
    }

    // Lanes that take part in one operation of a warp meet here; the last one to come does the work for all.
    void meet(const char* operation, unsigned mask, void* brought, void (*work)(Meeting&)) {
        unsigned warp = current / WARP, lane = current % WARP;
        unsigned width = launch.block.count() - warp * WARP;
        if (width < WARP) mask &= (1u << width) - 1;
        if (!(mask >> lane & 1)) fail("%s: the thread is not in its own mask %08x", operation, mask);
        Meeting& meeting = find_meeting(operation, mask, warp);
        meeting.brought[lane] = brought;
        meeting.arrived |= 1u << lane;
        if (meeting.arrived == mask) {
            work(meeting);
            meeting.arrived = 0;
            meeting.generation++;
        } else {
            wait_for(meeting.generation, operation);
        }
    }

    // Barrier `id` of `threads` threads; `value` is summed, and the sum is the result.
    int arrive_and_wait(unsigned id, unsigned threads, int value) {
        Barrier& barrier = barriers[id];
        arrive(id, threads, value);
        if (barrier.arrived != 0) wait_for(barrier.generation, "a barrier of the block");
        return barrier.result;
    }

    void arrive(unsigned id, unsigned threads, int value) {
        Barrier& barrier = barriers[id];
        if (barrier.arrived == 0) barrier.next = 0;
        barrier.next += value;
        if (++barrier.arrived == threads) {
            barrier.result = barrier.next;
            barrier.arrived = 0;
            barrier.generation++;
        }
    }

private:
    unsigned warp_in_order(unsigned i) const {
        bool reverse = (index.x + index.y + index.z) % 2 == 1;
        return reverse ? unsigned(meetings.size()) - 1 - i : i;
    }
    static unsigned first_of(unsigned warp) { return warp * WARP; }

    Meeting& find_meeting(const char* operation, unsigned mask, unsigned warp) {
        std::vector<Meeting>& all = meetings[warp];
        if (all.capacity() == 0) all.reserve(WARP + 1); // waiting lanes point into it
        Meeting* empty = nullptr;
        for (Meeting& meeting : all) {
            if (meeting.arrived == 0) {
                if (!empty || meeting.mask == mask) empty = &meeting;
            } else if (meeting.mask & mask) {
                if (meeting.mask != mask || std::strcmp(meeting.operation, operation) != 0)
                    fail("%s with mask %08x, while others of the warp are at %s with mask %08x", operation, mask,
                         meeting.operation, meeting.mask);
                return meeting;
            }
        }
        if (!empty) {
            all.emplace_back();
            empty = &all.back();
        }
        empty->operation = operation;
        empty->mask = mask;
        return *empty;
    }

    static bool runnable(const Lane& lane) { return !lane.done && (!lane.waits_for || *lane.waits_for != lane.seen); }

    // Goes on with the next lane that can, of this warp if possible.
    void next() {
        unsigned from = current, threads = launch.block.count();
        unsigned warp = from / WARP, first = first_of(warp), width = std::min(WARP, threads - first);
        for (unsigned i = 1; i <= width; i++)
            if (switch_to(first + (from - first + i) % width)) return;
        for (unsigned i = 0; i < meetings.size(); i++) {
            first = first_of(warp_in_order(i));
            width = std::min(WARP, threads - first);
            for (unsigned lane = 0; lane < width; lane++)
                if (switch_to(first + lane)) return;
        }
        report_stuck();
        void* lost;
        glm_fiber_switch(&lost, host);
    }

    bool switch_to(unsigned to) {
        if (!runnable(lanes[to])) return false;
        if (to != current) {
            unsigned from = current;
            current = to;
            glm_fiber_switch(&lanes[from].stack, lanes[to].stack);
        }
        return true;
    }

    // Nobody can go on: all are done, or it is a deadlock.
    void report_stuck() {
        unsigned done = 0;
        const Lane* waiting = nullptr;
        for (const Lane& lane : lanes) {
            done += lane.done;
            if (!lane.done && !waiting) waiting = &lane;
        }
        if (!waiting) return;
        char text[256];
        std::snprintf(text, sizeof text, "block (%u, %u, %u): nobody can go on; %u threads are done, thread %u waits at %s",
                      index.x, index.y, index.z, done, waiting->index, waiting->where);
        failure = text;
    }

    void check() {
        const unsigned char* guard = dynamic_shared() + launch.shared;
        for (std::size_t i = 0; i < SHARED_GUARD; i++)
            if (guard[i] != SHARED_GUARD_BYTE) {
                char text[128];
                std::snprintf(text, sizeof text, "block (%u, %u, %u) wrote %zu bytes past its shared memory", index.x, index.y,
                              index.z, i);
                failure = text;
                return;
            }
        for (unsigned i = 0; i < lanes.size(); i++)
            if (stacks.overflowed(i)) failure = "a thread's stack overflowed";
    }
};

// `__shared__` variables are `thread_local`, so they are the library's thread-local segment, but for `running`.
inline void poison_static() {
    struct Segment {
        unsigned char* start = nullptr;
        std::size_t len = 0;
    } segment;
    Block* keep = running;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* out) {
            unsigned char* start = static_cast<unsigned char*>(info->dlpi_tls_data);
            unsigned char* ours = reinterpret_cast<unsigned char*>(&running);
            for (int i = 0; start && i < info->dlpi_phnum; i++) {
                const auto& header = info->dlpi_phdr[i];
                if (header.p_type == PT_TLS && ours >= start && ours < start + header.p_memsz) {
                    *static_cast<Segment*>(out) = {start, header.p_memsz};
                    return 1;
                }
            }
            return 0;
        },
        &segment);
    if (segment.start) std::memset(segment.start, POISON, segment.len);
    running = keep;
}

// Runs a whole grid, block by block. The message of a failure lives until the thread's next launch.
inline const char* run(const Launch& launch) {
    static pthread_key_t key;
    static int made = pthread_key_create(&key, [](void* block) { delete static_cast<Block*>(block); });
    (void)made;
    Block* block = static_cast<Block*>(pthread_getspecific(key));
    if (!block) {
        block = new Block;
        pthread_setspecific(key, block);
    }
    running = block;
    block->prepare(launch);
    for (unsigned z = 0; z < launch.grid.z; z++)
        for (unsigned y = 0; y < launch.grid.y; y++)
            for (unsigned x = 0; x < launch.grid.x && block->failure.empty(); x++) {
                poison_static();
                block->run({x, y, z});
            }
    return block->failure.empty() ? nullptr : block->failure.c_str();
}

template <class... Arguments> struct Call {
    void (*kernel)(Arguments...);
    void** arguments;

    template <std::size_t... I> void with(std::index_sequence<I...>) const {
        kernel(*static_cast<std::remove_cv_t<Arguments>*>(arguments[I])...);
    }
    static void body(void* self) { static_cast<Call*>(self)->with(std::index_sequence_for<Arguments...>()); }
};

template <class... Arguments>
const char* launch(void (*kernel)(Arguments...), const unsigned* grid, const unsigned* block, unsigned shared, void** arguments) {
    Call<Arguments...> call{kernel, arguments};
    return run({{grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared, Call<Arguments...>::body, &call});
}

} // namespace emulate
