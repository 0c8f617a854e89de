// SPDX-License-Identifier: Apache-2.0
// A stack of its own for each thread of a block, and the switch from one to another, which costs a few nanoseconds.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define TESSERA_EMULATION_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TESSERA_EMULATION_ASAN 1
#endif
#endif
#ifdef TESSERA_EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define TESSERA_EMULATION_POISON(memory, bytes) ASAN_POISON_MEMORY_REGION(memory, bytes)
#define TESSERA_EMULATION_UNPOISON(memory, bytes) ASAN_UNPOISON_MEMORY_REGION(memory, bytes)
#else
#define TESSERA_EMULATION_POISON(memory, bytes) ((void)0)
#define TESSERA_EMULATION_UNPOISON(memory, bytes) ((void)0)
#endif
#if !defined(__x86_64__) || defined(TESSERA_EMULATION_UCONTEXT)
#define TESSERA_EMULATION_PORTABLE_SWITCH 1
#include <ucontext.h>
#endif

namespace tessera::emulation {

struct Fiber {
    Fiber();                                    // the stack of the calling thread
    Fiber(void (*entry)(), std::size_t number); // a fresh one; switching to it calls entry, which never returns
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    bool holds(const void* address) const { return address >= stack && address < stack + bytes; }

    void* stack_pointer = nullptr;
    char* stack = nullptr;
    std::size_t bytes = 0;
    bool owned = false;
    void* fake_stack = nullptr; // of the address sanitizer
#ifdef TESSERA_EMULATION_PORTABLE_SWITCH
    ucontext_t context;
#endif
};

#ifndef TESSERA_EMULATION_PORTABLE_SWITCH
// In line and ending in a jump: a `ret` after each switch would miss the processor's return predictor (35 % slower).
// All registers are given up but rbx and rbp, which the compiler may not let us name.
[[gnu::always_inline]] inline void switch_stack(void** save, void* to) {
    asm volatile("leaq -128(%%rsp), %%rsp\n\t" // the red zone
                 "pushq %%rbp\n\tpushq %%rbx\n\t"
                 "leaq 1f(%%rip), %%rax\n\tpushq %%rax\n\t"
                 "movq %%rsp, (%%rdi)\n\tmovq %%rsi, %%rsp\n\t"
                 "popq %%rax\n\tjmpq *%%rax\n"
                 "1:\n\tpopq %%rbx\n\tpopq %%rbp\n\tleaq 128(%%rsp), %%rsp"
                 : "+D"(save), "+S"(to)::"rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
                   "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                   "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#ifdef __AVX512F__
                   ,
                   "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26",
                   "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7"
#endif
    );
}
#endif

[[gnu::always_inline]] inline void switch_fiber(Fiber& from, Fiber& to) {
#ifdef TESSERA_EMULATION_ASAN
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.bytes);
#endif
#ifdef TESSERA_EMULATION_PORTABLE_SWITCH
    swapcontext(&from.context, &to.context);
#else
    switch_stack(&from.stack_pointer, to.stack_pointer);
#endif
#ifdef TESSERA_EMULATION_ASAN
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

// The first thing that a fiber's entry calls.
inline void fiber_entered() {
#ifdef TESSERA_EMULATION_ASAN
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

} // namespace tessera::emulation
