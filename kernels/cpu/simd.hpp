// SPDX-License-Identifier: Apache-2.0
// Sixteen float lanes as one value, and the attribute that compiles a loop for AVX-512, AVX2 and plain x86-64.
// The lanes are the same on every instruction set, so a sum over them has one order everywhere.
#pragma once

#include "kernels/tensor.hpp"

#include <cstring>

// Put on the function that holds a kernel's inner loops (not on templates' callers, lambdas or inline functions): the
// compiler emits one version per instruction set and the loader picks the best for this machine. Everything inlined
// into it is compiled for the same set.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && !defined(TESSERA_ONE_VERSION)
#define TESSERA_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TESSERA_MULTIVERSION
#endif
#define TESSERA_INLINE inline __attribute__((always_inline))

namespace tessera::simd {

inline constexpr int lanes = 16;

using Floats = float __attribute__((vector_size(64)));
using Ints = std::int32_t __attribute__((vector_size(64)));

TESSERA_INLINE Floats all(float value) { return Floats{} + value; }

TESSERA_INLINE Floats load(const float* from) {
    Floats value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

TESSERA_INLINE void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }

// The first `count` lanes from memory (0 <= count < lanes), `rest` in the others.
TESSERA_INLINE Floats load(const float* from, std::int64_t count, float rest = 0) {
    Floats value = all(rest);
    std::memcpy(&value, from, static_cast<std::size_t>(count) * sizeof(float));
    return value;
}

TESSERA_INLINE void store(float* to, Floats value, std::int64_t count) {
    std::memcpy(to, &value, static_cast<std::size_t>(count) * sizeof(float));
}

// The sum of all lanes, in one fixed order: halves are added until one lane is left.
TESSERA_INLINE float sum(Floats value) {
    float part[lanes];
    std::memcpy(part, &value, sizeof part);
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; ++lane)
            part[lane] += part[lane + half];
    return part[0];
}

TESSERA_INLINE float max(Floats value) {
    float part[lanes];
    std::memcpy(part, &value, sizeof part);
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; ++lane)
            part[lane] = part[lane] > part[lane + half] ? part[lane] : part[lane + half];
    return part[0];
}

TESSERA_INLINE Floats max(Floats a, Floats b) { return a > b ? a : b; }
TESSERA_INLINE Floats min(Floats a, Floats b) { return a < b ? a : b; }

} // namespace tessera::simd
