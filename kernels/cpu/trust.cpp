// SPDX-License-Identifier: Apache-2.0
// LAMB and LARS on the CPU. As in update.cpp, each loop body is compiled once and never inlined.
#include "kernels/trust.hpp"

#include "kernels/check.hpp"
#include "kernels/cpu/element_steps.hpp"
#include "kernels/trust_check.hpp"

#include <cmath>

namespace tessera::kernels {
namespace {

using simd::Floats;

TESSERA_MULTIVERSION __attribute__((noinline)) void direction_lanes(const Lamb& f, const LambPace& pace, float factor,
                                                                    std::int64_t count, float* gradient,
                                                                    const float* weight, float* first, float* second) {
    const float first_share = 1 - f.beta1, second_share = 1 - f.beta2;
    for (std::int64_t i = 0; i < count; i += simd::lanes) {
        const Floats g = simd::load(gradient + i) * factor;
        Floats m = simd::load(first + i), v = simd::load(second + i);
        m += (g - m) * first_share;
        v += (g * g - v) * second_share;
        simd::store(first + i, m);
        simd::store(second + i, v);
        const Floats d = m * pace.first_factor / (simd::sqrt(v) * pace.root_factor + f.epsilon);
        simd::store(gradient + i, simd::load(weight + i) * f.weight_decay + d);
    }
}

TESSERA_MULTIVERSION __attribute__((noinline)) void step_lanes(float rate, std::int64_t count, const float* direction,
                                                               float* weight) {
    for (std::int64_t i = 0; i < count; i += simd::lanes)
        simd::store(weight + i, simd::load(weight + i) - simd::load(direction + i) * rate);
}

struct LarsNow {
    float factor, rate, local;
};

TESSERA_MULTIVERSION __attribute__((noinline)) void lars_lanes(const Lars& f, const LarsNow& now, std::int64_t count,
                                                               const float* gradient, float* weight, float* velocity) {
    for (std::int64_t i = 0; i < count; i += simd::lanes) {
        const Floats w = simd::load(weight + i);
        const Floats d = w * f.weight_decay + simd::load(gradient + i) * now.factor;
        const Floats v = simd::load(velocity + i) * f.momentum + d * now.local;
        simd::store(velocity + i, v);
        simd::store(weight + i, w - v * now.rate);
    }
}

void check_lists(const char* kernel, std::string_view name, const TrustTensors& tensors, std::span<const View> list) {
    check_tensors(kernel, name, list.size(), tensors.weights.size());
    for (std::size_t i = 0; i < list.size(); ++i)
        check_count(kernel, name, list[i], tensors.weights[i].count());
}

} // namespace

void check(const char* kernel, const TrustTensors& tensors, int states, ConstView factor) {
    check_count(kernel, "factor", factor, 1);
    check_lists(kernel, "the gradients", tensors, tensors.gradients);
    if (states > 0) check_lists(kernel, "the first states", tensors, tensors.first);
    if (states > 1) check_lists(kernel, "the second states", tensors, tensors.second);
}

void write_lamb_pace(View host, const Lamb& settings, float learning_rate, std::int64_t step) {
    check_count("write_lamb_pace", "pace", host, lamb_pace_count);
    const auto at = static_cast<double>(step);
    const LambPace pace{learning_rate, static_cast<float>(1 / (1 - std::pow(double{settings.beta1}, at))),
                        static_cast<float>(1 / std::sqrt(1 - std::pow(double{settings.beta2}, at)))};
    std::memcpy(host.memory(), &pace, sizeof pace);
}

void lamb_direction(CpuStream& stream, const Lamb& settings, ConstView pace, ConstView factor,
                    const TrustTensors& tensors) {
    check("lamb_direction", tensors, 2, factor);
    const float by = *factor.as<float>();
    if (by == 0) return;
    LambPace now{};
    std::memcpy(&now, pace.as<float>(), sizeof now);
    for (std::size_t i = 0; i < tensors.weights.size(); ++i) {
        auto* gradient = tensors.gradients[i].as<float>();
        // for_vectors pads what is written: the gradient is handed on as such, not as what is only read.
        for_vectors(
            stream, tensors.weights[i].count(),
            [&](std::int64_t count, const float*, float* direction, float* weight, float* first, float* second) {
                direction_lanes(settings, now, by, count, direction, weight, first, second);
            },
            gradient, gradient, tensors.weights[i].as<float>(), tensors.first[i].as<float>(),
            tensors.second[i].as<float>());
    }
}

void lamb_step(CpuStream& stream, bool adapts, ConstView pace, ConstView factor, ConstView weight_squares,
               ConstView direction_squares, const TrustTensors& tensors) {
    check("lamb_step", tensors, 0, factor);
    if (*factor.as<float>() == 0) return;
    for (std::size_t i = 0; i < tensors.weights.size(); ++i) {
        float rate = *pace.as<float>();
        if (adapts) {
            const float weight = std::sqrt(weight_squares.as<float>()[i]);
            const float direction = std::sqrt(direction_squares.as<float>()[i]);
            if (weight > 0 && direction > 0) rate *= weight / direction;
        }
        for_vectors(
            stream, tensors.weights[i].count(),
            [&](std::int64_t count, const float* direction, float* weight) {
                step_lanes(rate, count, direction, weight);
            },
            tensors.gradients[i].as<float>(), tensors.weights[i].as<float>());
    }
}

void lars(CpuStream& stream, const Lars& settings, bool adapts, ConstView learning_rate, ConstView factor,
          ConstView weight_squares, ConstView gradient_squares, const TrustTensors& tensors) {
    check("lars", tensors, 1, factor);
    LarsNow now{*factor.as<float>(), *learning_rate.as<float>(), 1};
    if (now.factor == 0) return;
    for (std::size_t i = 0; i < tensors.weights.size(); ++i) {
        now.local = 1;
        if (adapts) {
            const float weight = std::sqrt(weight_squares.as<float>()[i]);
            const float gradient = std::sqrt(gradient_squares.as<float>()[i]) * now.factor;
            if (weight > 0 && gradient > 0)
                now.local = settings.trust * weight / (settings.weight_decay * weight + gradient);
        }
        for_vectors(
            stream, tensors.weights[i].count(),
            [&](std::int64_t count, const float* gradient, float* weight, float* velocity) {
                lars_lanes(settings, now, count, gradient, weight, velocity);
            },
            tensors.gradients[i].as<float>(), tensors.weights[i].as<float>(), tensors.first[i].as<float>());
    }
}

} // namespace tessera::kernels
