// SPDX-License-Identifier: Apache-2.0
// Muon's elementwise parts on the CPU, by plain loops: the products take the time.
#include "kernels/muon.hpp"

#include "kernels/cpu/loops.hpp"

#include <cmath>

namespace tessera::kernels {
namespace {

constexpr std::int64_t elements_per_thread = 32768;

template <class Work> void for_elements(const CpuStream& stream, std::int64_t count, const Work& each) {
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            each(i);
    };
    stream.parallel(count, elements_per_thread, std::ref(work));
}

} // namespace

void muon_direction(CpuStream& stream, float momentum, ConstView factor, ConstView gradient, View velocity,
                    View direction) {
    check_count("muon_direction", "factor", factor, 1);
    check_count("muon_direction", "velocity", velocity, gradient.count());
    check_count("muon_direction", "direction", direction, gradient.count());
    const float by = *factor.as<float>();
    const auto* of_gradient = gradient.as<float>();
    auto *v = velocity.as<float>(), *d = direction.as<float>();
    if (by == 0) {
        std::fill_n(d, gradient.count(), 0.0f);
        return;
    }
    for_elements(stream, gradient.count(), [&](std::int64_t i) {
        const float g = by * of_gradient[i];
        v[i] = momentum * v[i] + g;
        d[i] = g + momentum * v[i];
    });
}

void divide_by_norm(CpuStream& stream, ConstView x, ConstView square_sum, View y) {
    check_count("divide_by_norm", "square_sum", square_sum, 1);
    check_count("divide_by_norm", "y", y, x.count());
    const float factor = 1 / (std::sqrt(*square_sum.as<float>()) + 1e-7f);
    const auto* from = x.as<float>();
    auto* to = y.as<float>();
    for_elements(stream, x.count(), [&](std::int64_t i) { to[i] = from[i] * factor; });
}

void muon_step(CpuStream& stream, const MuonStep& settings, ConstView learning_rate, ConstView factor,
               ConstView direction, View weight) {
    check_count("muon_step", "learning_rate", learning_rate, 1);
    check_count("muon_step", "factor", factor, 1);
    check_count("muon_step", "direction", direction, weight.count());
    if (*factor.as<float>() == 0) return;
    const float rate = *learning_rate.as<float>();
    const auto* d = direction.as<float>();
    auto* w = weight.as<float>();
    for_elements(stream, weight.count(),
                 [&](std::int64_t i) { w[i] -= rate * (settings.scale * d[i] + settings.weight_decay * w[i]); });
}

} // namespace tessera::kernels
