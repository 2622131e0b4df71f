// Fibers: stacks that take turns on one thread of the host. A switch saves what the ABI says a call preserves, so it costs
// about as much as a call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <sys/mman.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "emulated launches need x86_64 or aarch64: write glm_fiber_switch for this processor"
#endif

// void glm_fiber_switch(void** save, void* load): keeps the running stack in *save and goes on with the stack `load`.
#if defined(__x86_64__)
asm(R"(
.text
.local glm_fiber_switch
.type glm_fiber_switch, @function
glm_fiber_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size glm_fiber_switch, .-glm_fiber_switch
)");
#else
asm(R"(
.text
.local glm_fiber_switch
.type glm_fiber_switch, %function
glm_fiber_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size glm_fiber_switch, .-glm_fiber_switch
)");
#endif

extern "C" void glm_fiber_switch(void** save, void* load) __attribute__((visibility("hidden")));

namespace emulate {

constexpr std::size_t STACK_BYTES = 128 << 10;
constexpr std::uint64_t CANARY = 0x5ca1ab1ec0ffee00;

// Stacks of a thread of the host; pages are used as they are touched and kept for the next launch.
class Stacks {
public:
    ~Stacks() {
        if (memory_) munmap(memory_, count_ * STACK_BYTES);
    }

    // False where the system has no memory.
    bool reserve(std::size_t count) {
        if (count <= count_) return true;
        if (memory_) munmap(memory_, count_ * STACK_BYTES);
        count_ = 0;
        memory_ = nullptr;
        void* memory = mmap(nullptr, count * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) return false;
        memory_ = static_cast<char*>(memory);
        count_ = count;
        return true;
    }

    // The saved stack of a fiber that will start with `entry`, which must not return.
    void* start(std::size_t index, void (*entry)()) {
        char* bottom = memory_ + index * STACK_BYTES;
        std::memcpy(bottom, &CANARY, sizeof CANARY);
        std::uintptr_t* top = reinterpret_cast<std::uintptr_t*>(bottom + STACK_BYTES);
#if defined(__x86_64__)
        *--top = 0; // where a return address would be: keeps the alignment of a call
        *--top = reinterpret_cast<std::uintptr_t>(entry);
        for (int i = 0; i < 6; i++) *--top = 0;
#else
        for (int i = 0; i < 20; i++) *--top = 0;
        top[11] = reinterpret_cast<std::uintptr_t>(entry); // x30
#endif
        return top;
    }

    bool overflowed(std::size_t index) const {
        return std::memcmp(memory_ + index * STACK_BYTES, &CANARY, sizeof CANARY) != 0;
    }

private:
    char* memory_ = nullptr;
    std::size_t count_ = 0;
};

} // namespace emulate
