// SPDX-License-Identifier: Apache-2.0
// The inner loop of every product of this house, matmul's and attention's: a tile of R rows and V vectors of columns
// held in registers. Each element of a product is one chain of multiply-adds along k, whatever tile it falls in: that
// is why no partition of the work can change a bit.
#pragma once

#include "kernels/cpu/float16.hpp"
#include "kernels/cpu/simd.hpp"

#include <type_traits>
#include <utility>

#define TESSERA_INLINE_LAMBDA __attribute__((always_inline))

namespace tessera::simd {

// Calls body(0), body(1), … with constants. A plain loop is unrolled too late for its arrays to become registers.
template <int... index, class Body>
TESSERA_INLINE void unrolled(std::integer_sequence<int, index...>, const Body& body) {
    (body(std::integral_constant<int, index>{}), ...);
}
template <int count, class Body> TESSERA_INLINE void unrolled(const Body& body) {
    unrolled(std::make_integer_sequence<int, count>{}, body);
}

// Makes rows of a 16 by 16 block columns: swaps halves of halves, 64 two-operand shuffles in all.
TESSERA_INLINE void transpose(Floats (&block)[lanes]) {
    const auto stage = [&](auto distance_constant, Ints low, Ints high) TESSERA_INLINE_LAMBDA {
        constexpr int distance = decltype(distance_constant)::value;
        unrolled<lanes / 2>([&](auto pair) TESSERA_INLINE_LAMBDA {
            constexpr int first = pair / distance * 2 * distance + pair % distance;
            const Floats a = block[first], b = block[first + distance];
            block[first] = __builtin_shuffle(a, b, low);
            block[first + distance] = __builtin_shuffle(a, b, high);
        });
    };
    stage(std::integral_constant<int, 1>{}, Ints{0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30},
          Ints{1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31});
    stage(std::integral_constant<int, 2>{}, Ints{0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29},
          Ints{2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31});
    stage(std::integral_constant<int, 4>{}, Ints{0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27},
          Ints{4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31});
    stage(std::integral_constant<int, 8>{}, Ints{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
          Ints{8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31});
}

// bf16 as floats and back (rounded to nearest even, NaN stays NaN), sixteen at a time.
using Halves = std::uint16_t __attribute__((vector_size(32)));
using Words = std::uint32_t __attribute__((vector_size(64)));

TESSERA_INLINE Floats load(const BFloat16* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    const Words words = __builtin_convertvector(halves, Words) << 16;
    Floats value;
    std::memcpy(&value, &words, sizeof value);
    return value;
}

TESSERA_INLINE void store(BFloat16* to, Floats value) {
    Words words;
    std::memcpy(&words, &value, sizeof words);
    const Words rounded = (words + 0x7fffu + ((words >> 16) & 1u)) >> 16;
    const Words quiet = (words >> 16) | 0x40u;
    const Words magnitude = words & 0x7fffffffu;
    const Words chosen = magnitude > 0x7f800000u ? quiet : rounded;
    const Halves halves = __builtin_convertvector(chosen, Halves);
    std::memcpy(static_cast<void*>(to), &halves, sizeof halves);
}

// What a tile does with words and with its sums at the end.
struct MultiplyAdd {
    TESSERA_INLINE static void step(Floats& sum, float a, Floats b) { sum += a * b; }
    template <class Element> TESSERA_INLINE static void store(Element* to, Floats value) { simd::store(to, value); }
};

// sum[r][:] += sum over k of a(r, k) b(k, :)      b(k, :) = b[k * b_stride : k * b_stride + V * lanes]
// a(r, k) = a[k * a_stride + r] where k is outer (a packed panel, or a transposed operand), else a[r * a_stride + k].
// 12 rows by 2 vectors are 24 of AVX-512's 32 registers: two multiply-adds start in every cycle (measured: 99 % of
// peak).
template <int R, int V, bool k_outer, class Arithmetic = MultiplyAdd>
TESSERA_INLINE void multiply(const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride,
                             std::int64_t count, Floats (&sum)[R][V]) {
    for (std::int64_t k = 0; k < count; ++k) {
        Floats columns[V];
        unrolled<V>([&](auto v) TESSERA_INLINE_LAMBDA { columns[v] = load(b + k * b_stride + v * lanes); });
        unrolled<R>([&](auto r) TESSERA_INLINE_LAMBDA {
            const float value = k_outer ? a[k * a_stride + r] : a[r * a_stride + k];
            unrolled<V>([&](auto v) TESSERA_INLINE_LAMBDA { Arithmetic::step(sum[r][v], value, columns[v]); });
        });
    }
}

} // namespace tessera::simd
