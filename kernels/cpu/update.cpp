// SPDX-License-Identifier: Apache-2.0
// Optimizer steps on the CPU. Each loop body is compiled once and never inlined: an element gets the same bits in a
// whole tensor and in any slice of it.
#include "kernels/update.hpp"

#include "kernels/cpu/element_steps.hpp"
#include "kernels/cpu/vector_math.hpp"
#include "kernels/update_step.hpp"

#include <cmath>
#include <cstring>

namespace tessera::kernels {
namespace {

using simd::Floats;

TESSERA_MULTIVERSION __attribute__((noinline)) void adam_lanes(const AdamFactors& f, const AdamPace& pace, float clip,
                                                               std::int64_t count, const float* gradient, float* weight,
                                                               float* first, float* second, BFloat16* low) {
    for (std::int64_t i = 0; i < count; i += simd::lanes) {
        const Floats w = simd::load(weight + i);
        const Floats g = w * f.coupled_decay + simd::load(gradient + i) * clip;
        Floats m = simd::load(first + i);
        Floats v = simd::load(second + i);
        m += (g - m) * f.first_share;
        v += (g * g - v) * f.second_share;
        const Floats change = m * pace.step_size / (simd::sqrt(v) * pace.root_factor + f.epsilon);
        const Floats result = w * pace.shrink - change;
        simd::store(weight + i, result);
        simd::store(first + i, m);
        simd::store(second + i, v);
        if (low != nullptr) simd::store(low + i, result);
    }
}

struct SgdFactors {
    float gradient;
    float decay;
    float momentum;
    float learning_rate;
};

template <bool momentum, bool nesterov>
TESSERA_MULTIVERSION __attribute__((noinline)) void sgd_lanes(const SgdFactors& f, std::int64_t count,
                                                              const float* gradient, float* weight, float* velocity,
                                                              BFloat16* low) {
    for (std::int64_t i = 0; i < count; i += simd::lanes) {
        const Floats w = simd::load(weight + i);
        const Floats g = w * f.decay + simd::load(gradient + i) * f.gradient;
        Floats change = g;
        if constexpr (momentum) {
            const Floats v = g + simd::load(velocity + i) * f.momentum;
            simd::store(velocity + i, v);
            change = nesterov ? v * f.momentum + g : v;
        }
        const Floats result = w - change * f.learning_rate;
        simd::store(weight + i, result);
        if (low != nullptr) simd::store(low + i, result);
    }
}

BFloat16* pointer(const View& low_precision_copy) {
    return low_precision_copy ? low_precision_copy.as<BFloat16>() : nullptr;
}

} // namespace

void clip_factor(CpuStream&, ConstView square_sum, float max_norm, View norm, View factor) {
    check_count("clip_factor", "the sum", square_sum, 1);
    check_count("clip_factor", "the norm", norm, 1);
    check_count("clip_factor", "the factor", factor, 1);
    const float root = std::sqrt(*square_sum.as<float>());
    const float wanted = max_norm / (root + 1e-6f);
    *norm.as<float>() = root;
    *factor.as<float>() = !std::isfinite(root) ? 0.0f : max_norm <= 0 || wanted > 1 ? 1.0f : wanted;
}

void adam(CpuStream& stream, const Adam& settings, ConstView pace, ConstView factor, const AdamTensors& tensors) {
    check(tensors, pace, factor);
    const AdamFactors factors = factors_of(settings);
    AdamPace now;
    std::memcpy(&now, pace.as<float>(), sizeof now);
    const float clip = *factor.as<float>();
    if (clip == 0) return;
    for (std::size_t i = 0; i < tensors.weights.size(); ++i)
        for_vectors(
            stream, tensors.weights[i].count(),
            [&](auto... arguments) { adam_lanes(factors, now, clip, arguments...); }, tensors.gradients[i].as<float>(),
            tensors.weights[i].as<float>(), tensors.first_moments[i].as<float>(), tensors.second_moments[i].as<float>(),
            pointer(copy_of(tensors.low_precision_copies, i)));
}

void sgd(CpuStream& stream, const Sgd& settings, ConstView learning_rate, ConstView factor, const SgdTensors& tensors) {
    const bool stored = settings.momentum != 0;
    check(tensors, learning_rate, factor, stored);
    if (*factor.as<float>() == 0) return;
    const SgdFactors factors{*factor.as<float>(), settings.weight_decay, settings.momentum, *learning_rate.as<float>()};
    const auto run = [&]<bool momentum, bool nesterov>() {
        for (std::size_t i = 0; i < tensors.weights.size(); ++i)
            for_vectors(
                stream, tensors.weights[i].count(),
                [&](auto... arguments) { sgd_lanes<momentum, nesterov>(factors, arguments...); },
                tensors.gradients[i].as<float>(), tensors.weights[i].as<float>(),
                stored ? tensors.velocities[i].as<float>() : nullptr,
                pointer(copy_of(tensors.low_precision_copies, i)));
    };
    if (!stored)
        run.operator()<false, false>();
    else
        settings.nesterov ? run.operator()<true, true>() : run.operator()<true, false>();
}

} // namespace tessera::kernels
