// SPDX-License-Identifier: Apache-2.0
// The functions that code compiled with -fsanitize=thread calls at each access to memory. The program is linked without
// the thread sanitizer's library: these are taken in its place, and hand the access to the checker.
#include "tests/cuda_emulation/checker/checker.hpp"

#include <cstdint>
#include <cstring>

using namespace tessera::emulation;

// NOLINTBEGIN: the names are the compiler's
#define HERE __builtin_return_address(0)
#define ACCESSES(bytes)                                                                                                \
    void __tsan_read##bytes(void* p) {                                                                                 \
        if (reinterpret_cast<std::uintptr_t>(p) % bytes != 0) report_alignment(p, bytes, HERE);                        \
        check_access(p, bytes, Access::read, HERE);                                                                    \
    }                                                                                                                  \
    void __tsan_write##bytes(void* p) {                                                                                \
        if (reinterpret_cast<std::uintptr_t>(p) % bytes != 0) report_alignment(p, bytes, HERE);                        \
        check_access(p, bytes, Access::write, HERE);                                                                   \
    }                                                                                                                  \
    void __tsan_unaligned_read##bytes(void* p) { check_access(p, bytes, Access::read, HERE); }                         \
    void __tsan_unaligned_write##bytes(void* p) { check_access(p, bytes, Access::write, HERE); }

// Host code of the .cu files uses std::atomic and guarded statics: they do what they should, unchecked.
#define ATOMICS(bits, T)                                                                                               \
    T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }            \
    void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }            \
    T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }  \
    T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }  \
    T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }  \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* c, T v, int, int) {                            \
        return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                        \
    }                                                                                                                  \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* c, T v, int, int) {                              \
        return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                        \
    }

extern "C" {

ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
ATOMICS(8, std::uint8_t)
ATOMICS(16, std::uint16_t)
ATOMICS(32, std::uint32_t)
ATOMICS(64, std::uint64_t)
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

void __tsan_read_range(void* p, std::size_t bytes) { check_access(p, bytes, Access::read, HERE); }
void __tsan_write_range(void* p, std::size_t bytes) { check_access(p, bytes, Access::write, HERE); }

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}

// Of clang, which sends these through the sanitizer; g++ calls the C library's, unseen.
void* __tsan_memcpy(void* to, const void* from, std::size_t bytes) {
    check_access(from, bytes, Access::read, HERE);
    check_access(to, bytes, Access::write, HERE);
    return std::memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, std::size_t bytes) {
    check_access(from, bytes, Access::read, HERE);
    check_access(to, bytes, Access::write, HERE);
    return std::memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, std::size_t bytes) {
    check_access(to, bytes, Access::write, HERE);
    return std::memset(to, value, bytes);
}

} // extern "C"
// NOLINTEND
