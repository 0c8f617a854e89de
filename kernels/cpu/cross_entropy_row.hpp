// SPDX-License-Identifier: Apache-2.0
// A row of logits on the CPU: the largest and the sum of the powers, carried over chunks that stay in the first cache.
#pragma once

#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/vector_math.hpp"

#include <limits>

namespace tessera::kernels {

inline constexpr std::int64_t logit_chunk = 4096;
inline constexpr float infinity = std::numeric_limits<float>::infinity();
// Of no logit: a difference to it is no NaN.
inline constexpr float lowest_logit = std::numeric_limits<float>::lowest();

template <class T> TESSERA_INLINE float maximum_of(const T* logits, std::int64_t count, float at_least) {
    simd::Floats highest = simd::all(at_least);
    simd::for_columns(count, [&](std::int64_t c, auto width) TESSERA_INLINED {
        highest = simd::max(highest, simd::load(logits + c, width, -infinity));
    });
    return simd::max(highest);
}

// The sum, lane by lane, of exp(logit - maximum). The powers go to `kept`, which has room for whole vectors.
template <class T>
TESSERA_INLINE simd::Floats sum_of_powers(const T* logits, std::int64_t count, float maximum, float* kept) {
    simd::Floats sums{};
    simd::for_columns(count, [&](std::int64_t c, auto width) TESSERA_INLINED {
        const simd::Floats power = simd::exp(simd::load(logits + c, width, -infinity) - maximum);
        sums += power;
        simd::store(kept + c, power);
    });
    return sums;
}

struct LogitStatistics {
    float maximum;
    float sum; // of exp(logit - maximum)
};

// maximum: of the first chunk. kept: a chunk, which receives the powers of the last.
template <class T>
TESSERA_INLINE LogitStatistics statistics_of_row(const T* row, std::int64_t classes, float maximum, float* kept) {
    simd::Floats total = sum_of_powers(row, std::min(classes, logit_chunk), maximum, kept);
    for (std::int64_t c = logit_chunk; c < classes; c += logit_chunk) {
        const std::int64_t count = std::min(logit_chunk, classes - c);
        const float higher = maximum_of(row + c, count, maximum);
        total *= simd::exp(simd::all(maximum - higher));
        maximum = higher;
        total += sum_of_powers(row + c, count, maximum, kept);
    }
    return {maximum, simd::sum(total)};
}

} // namespace tessera::kernels
