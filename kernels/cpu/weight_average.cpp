// SPDX-License-Identifier: Apache-2.0
// Running averages on the CPU. As in update.cpp, the loop body is compiled once and never inlined.
#include "kernels/weight_average.hpp"

#include "kernels/cpu/element_steps.hpp"
#include "kernels/weight_average_check.hpp"

namespace tessera::kernels {
namespace {

using simd::Floats;

TESSERA_MULTIVERSION __attribute__((noinline)) void average_lanes(float share, std::int64_t count, const float* weight,
                                                                  float* average) {
    for (std::int64_t i = 0; i < count; i += simd::lanes) {
        const Floats before = simd::load(average + i);
        simd::store(average + i, (simd::load(weight + i) - before) * share + before);
    }
}

} // namespace

void average_weights(CpuStream& stream, ConstView share, ConstView factor, std::span<const View> weights,
                     std::span<const View> averages) {
    check_average(share, factor, weights, averages);
    if (*factor.as<float>() == 0) return;
    const float now = *share.as<float>();
    for (std::size_t i = 0; i < weights.size(); ++i) {
        const auto* weight = weights[i].as<float>();
        if (now == 1)
            std::copy_n(weight, weights[i].count(), averages[i].as<float>());
        else
            for_vectors(
                stream, weights[i].count(), [&](auto... arguments) { average_lanes(now, arguments...); }, weight,
                averages[i].as<float>());
    }
}

void exchange(CpuStream& stream, std::span<const View> one, std::span<const View> other) {
    check_alike("exchange", one, other);
    constexpr std::int64_t elements_per_thread = 32768;
    for (std::size_t i = 0; i < one.size(); ++i) {
        auto *a = one[i].as<float>(), *b = other[i].as<float>();
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            std::swap_ranges(a + begin, a + end, b + begin);
        };
        stream.parallel(one[i].count(), elements_per_thread, std::ref(work));
    }
}

} // namespace tessera::kernels
