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

// The first `count` lanes from memory (0 <= count < lanes), `rest` in the others. A loop with a condition, not memcpy:
// the compiler makes one masked move of it.
TESSERA_INLINE Floats load(const float* from, std::int64_t count, float rest = 0) {
    const int end = static_cast<int>(count);
    float part[lanes];
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane)
        part[lane] = lane < end ? from[lane] : rest;
    return load(part);
}

TESSERA_INLINE void store(float* to, Floats value, std::int64_t count) {
    const int end = static_cast<int>(count);
    float part[lanes];
    store(part, value);
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane)
        if (lane < end) to[lane] = part[lane];
}

// The lanes of the upper half moved onto the lower half; what the other lanes hold does not matter.
TESSERA_INLINE Floats upper_8(Floats value) {
    return __builtin_shufflevector(value, value, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
}
TESSERA_INLINE Floats upper_4(Floats value) {
    return __builtin_shufflevector(value, value, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
}
TESSERA_INLINE Floats upper_2(Floats value) {
    return __builtin_shufflevector(value, value, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3);
}
TESSERA_INLINE Floats upper_1(Floats value) {
    return __builtin_shufflevector(value, value, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1);
}

TESSERA_INLINE Floats max(Floats a, Floats b) { return a > b ? a : b; }
TESSERA_INLINE Floats min(Floats a, Floats b) { return a < b ? a : b; }

// The sum of all lanes, in one fixed order: halves are added until one lane is left.
TESSERA_INLINE float sum(Floats value) {
    value += upper_8(value);
    value += upper_4(value);
    value += upper_2(value);
    value += upper_1(value);
    return value[0];
}

TESSERA_INLINE float max(Floats value) {
    value = max(value, upper_8(value));
    value = max(value, upper_4(value));
    value = max(value, upper_2(value));
    value = max(value, upper_1(value));
    return value[0];
}

} // namespace tessera::simd
