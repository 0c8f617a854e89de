// SPDX-License-Identifier: Apache-2.0
// The multiply-add peak of one core, measured: what a kernel's speed is a share of on a machine whose clock nobody
// knows.
#pragma once

#include "kernels/cpu/tiles.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace tessera {

// 24 independent chains, so that the latency of one multiply-add is hidden.
TESSERA_MULTIVERSION inline float multiply_add_chains(std::int64_t count, float factor) {
    simd::Floats sum[24]; // each of another start, or the compiler would keep but one
    simd::unrolled<24>([&](auto chain) TESSERA_INLINE_LAMBDA { sum[chain] = simd::Floats{} + float(chain); });
    const simd::Floats b = simd::all(factor);
    for (std::int64_t i = 0; i < count; ++i)
        simd::unrolled<24>([&](auto chain) TESSERA_INLINE_LAMBDA { sum[chain] = sum[chain] * b + factor; });
    simd::Floats total{};
    simd::unrolled<24>([&](auto chain) TESSERA_INLINE_LAMBDA { total += sum[chain]; });
    return simd::sum(total);
}

// f32 operations per second of one core: the best of 20 runs of about a millisecond.
inline double peak_operations_per_second() {
    constexpr std::int64_t count = 200000;
    double best = 0;
    volatile float sink = 0;
    for (int run = 0; run < 20; ++run) {
        const auto start = std::chrono::steady_clock::now();
        sink = sink + multiply_add_chains(count, 0.5f);
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        best = std::max(best, 2.0 * 24 * simd::lanes * count / seconds);
    }
    return best;
}

} // namespace tessera
