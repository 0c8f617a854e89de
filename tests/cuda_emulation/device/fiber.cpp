// SPDX-License-Identifier: Apache-2.0
// The memory of a fiber's stack: a page that nobody may touch below it, and a top of its own.
#include "tests/cuda_emulation/device/fiber.hpp"

#include <cstdint>
#include <new>
#include <pthread.h>
#include <sys/mman.h>

namespace tessera::emulation {
namespace {

#ifdef TESSERA_EMULATION_ASAN
constexpr std::size_t stack_bytes = 256 << 10;
#else
constexpr std::size_t stack_bytes = 64 << 10;
#endif
constexpr std::size_t guard_bytes = 4096;

} // namespace

Fiber::Fiber() {
    pthread_attr_t attributes;
    void* lowest = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &lowest, &bytes);
    pthread_attr_destroy(&attributes);
    stack = static_cast<char*>(lowest);
}

Fiber::Fiber(void (*entry)(), std::size_t number) : bytes(stack_bytes), owned(true) {
    void* memory = mmap(nullptr, stack_bytes + guard_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, guard_bytes, PROT_NONE);
    stack = static_cast<char*>(memory) + guard_bytes;
#ifdef TESSERA_EMULATION_PORTABLE_SWITCH
    static_cast<void>(number);
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    makecontext(&context, entry, 0);
#else
    // Other cache sets for the hot end of each stack, or 256 fibers fight over the 8 ways of the first cache (40 %).
    void** top = reinterpret_cast<void**>(stack + bytes - 64 - number * 704 % 8192);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    stack_pointer = top;
#endif
}

Fiber::~Fiber() {
    if (!owned) return;
    TESSERA_EMULATION_UNPOISON(stack, bytes); // of frames that never returned
    munmap(stack - guard_bytes, bytes + guard_bytes);
}

} // namespace tessera::emulation
