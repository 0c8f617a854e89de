// SPDX-License-Identifier: Apache-2.0
// Independent multiply-adds in registers: as many chains as hide their latency, and no memory.
#include "kernels/peak.hpp"

#include "kernels/cpu/simd.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>

namespace tessera::kernels {
namespace {

constexpr std::int64_t repetitions = 400'000;
constexpr int chains = 16;

TESSERA_MULTIVERSION float multiply_add(float factor, float term) {
    simd::Floats values[chains];
    for (int chain = 0; chain < chains; ++chain)
        values[chain] = simd::all(static_cast<float>(chain));
    const simd::Floats factors = simd::all(factor);
    const simd::Floats terms = simd::all(term);
    for (std::int64_t i = 0; i < repetitions; ++i)
        for (int chain = 0; chain < chains; ++chain)
            values[chain] = values[chain] * factors + terms;
    simd::Floats total = values[0];
    for (int chain = 1; chain < chains; ++chain)
        total += values[chain];
    return simd::sum(total);
}

} // namespace

double peak_flops(CpuStream& stream) {
    const std::int64_t threads = stream.threads();
    double best = 0;
    for (int attempt = 0; attempt < 3; ++attempt) {
        std::atomic<std::int64_t> finished{0};
        const auto begin = std::chrono::steady_clock::now();
        stream.parallel(threads, 1, [&](std::int64_t first, std::int64_t end) {
            for (std::int64_t i = first; i < end; ++i)
                if (multiply_add(0.999f, 0.001f) > 0) ++finished; // the use keeps the loop from being left out
        });
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        if (finished == threads)
            best = std::max(best, static_cast<double>(threads * repetitions) * chains * 2 * simd::lanes / seconds);
    }
    return best;
}

} // namespace tessera::kernels
