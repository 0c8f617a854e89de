// SPDX-License-Identifier: Apache-2.0
// Atomic operations and fences, with CUDA's names. Threads are switched at barriers only, so a plain read, change and
// write is one step.
#pragma once

#include "tests/cuda_emulation/device/execution.hpp"

namespace tessera::emulation {

template <class T> using Value = std::type_identity_t<T>; // T is deduced from the pointer alone

// Out of line, so that the return address is the kernel's.
template <class T, class Change> TESSERA_UNCHECKED [[gnu::noinline]] T atomically(T* memory, Change change) {
    if (watch.access != nullptr) watch.access(memory, sizeof(T), Access::atomic, __builtin_return_address(0));
    const T old = *memory;
    *memory = change(old);
    return old;
}

} // namespace tessera::emulation

template <class T> T atomicAdd(T* to, tessera::emulation::Value<T> value) {
    return tessera::emulation::atomically(to, [value](T old) { return static_cast<T>(old + value); });
}
template <> inline float2 atomicAdd(float2* to, float2 value) {
    return tessera::emulation::atomically(
        to, [value](float2 old) { return make_float2(old.x + value.x, old.y + value.y); });
}
template <class T> T atomicSub(T* to, tessera::emulation::Value<T> value) {
    return tessera::emulation::atomically(to, [value](T old) { return static_cast<T>(old - value); });
}
template <class T> T atomicMax(T* to, tessera::emulation::Value<T> value) {
    return tessera::emulation::atomically(to, [value](T old) { return old < value ? value : old; });
}
template <class T> T atomicMin(T* to, tessera::emulation::Value<T> value) {
    return tessera::emulation::atomically(to, [value](T old) { return value < old ? value : old; });
}
template <class T> T atomicAnd(T* to, tessera::emulation::Value<T> value) {
    return tessera::emulation::atomically(to, [value](T old) { return static_cast<T>(old & value); });
}
template <class T> T atomicOr(T* to, tessera::emulation::Value<T> value) {
    return tessera::emulation::atomically(to, [value](T old) { return static_cast<T>(old | value); });
}
template <class T> T atomicExch(T* to, tessera::emulation::Value<T> value) {
    return tessera::emulation::atomically(to, [value](T) { return value; });
}
template <class T> T atomicCAS(T* to, tessera::emulation::Value<T> expected, tessera::emulation::Value<T> value) {
    return tessera::emulation::atomically(to, [expected, value](T old) { return old == expected ? value : old; });
}
inline unsigned atomicInc(unsigned* to, unsigned last) {
    return tessera::emulation::atomically(to, [last](unsigned old) { return old >= last ? 0u : old + 1; });
}

TESSERA_UNCHECKED inline void __threadfence() {
    if (tessera::emulation::watch.fence != nullptr) tessera::emulation::watch.fence();
}
inline void __threadfence_block() {}
inline void __threadfence_system() { __threadfence(); }
