// SPDX-License-Identifier: Apache-2.0
// Adagrad, RMSProp and Lion on the CPU. As in update.cpp, each loop body is compiled once and never inlined.
#include "kernels/update_rules.hpp"

#include "kernels/cpu/element_steps.hpp"
#include "kernels/update_rules_check.hpp"

namespace tessera::kernels {
namespace {

using simd::Floats;

struct Now {
    float gradient, rate;
};

TESSERA_MULTIVERSION __attribute__((noinline)) void adagrad_lanes(const Adagrad& f, Now now, std::int64_t count,
                                                                  const float* gradient, float* weight, float* first) {
    for (std::int64_t i = 0; i < count; i += simd::lanes) {
        const Floats w = simd::load(weight + i);
        const Floats g = w * f.weight_decay + simd::load(gradient + i) * now.gradient;
        const Floats s = g * g + simd::load(first + i);
        simd::store(first + i, s);
        simd::store(weight + i, w - g * now.rate / (simd::sqrt(s) + f.epsilon));
    }
}

template <bool momentum>
TESSERA_MULTIVERSION __attribute__((noinline)) void rmsprop_lanes(const RmsProp& f, Now now, std::int64_t count,
                                                                  const float* gradient, float* weight, float* first,
                                                                  float* second) {
    const float share = 1 - f.alpha;
    for (std::int64_t i = 0; i < count; i += simd::lanes) {
        const Floats w = simd::load(weight + i);
        const Floats g = w * f.weight_decay + simd::load(gradient + i) * now.gradient;
        Floats s = simd::load(first + i);
        s += (g * g - s) * share;
        simd::store(first + i, s);
        Floats change = g / (simd::sqrt(s) + f.epsilon);
        if constexpr (momentum) {
            change += simd::load(second + i) * f.momentum;
            simd::store(second + i, change);
        }
        simd::store(weight + i, w - change * now.rate);
    }
}

TESSERA_MULTIVERSION __attribute__((noinline)) void lion_lanes(const Lion& f, Now now, std::int64_t count,
                                                               const float* gradient, float* weight, float* first) {
    const float first_share = 1 - f.beta1, second_share = 1 - f.beta2, shrink = 1 - now.rate * f.weight_decay;
    for (std::int64_t i = 0; i < count; i += simd::lanes) {
        const Floats g = simd::load(gradient + i) * now.gradient;
        const Floats m = simd::load(first + i);
        const Floats c = (g - m) * first_share + m;
        const Floats one = simd::all(1.0f);
        const Floats sign = c > 0.0f ? one : c < 0.0f ? -one : c; // 0 stays 0, and NaN itself
        simd::store(first + i, (g - m) * second_share + m);
        simd::store(weight + i, simd::load(weight + i) * shrink - sign * now.rate);
    }
}

// Calls lanes(now, count, gradient, weight, first, second) for each tensor; second is null where it is not asked for.
template <class Lanes> void for_tensors(const char* kernel, const CpuStream& stream, ConstView learning_rate,
                                        ConstView factor, const RuleTensors& tensors, bool with_second,
                                        const Lanes& lanes) {
    check(kernel, tensors, learning_rate, factor, with_second);
    const Now now{*factor.as<float>(), *learning_rate.as<float>()};
    if (now.gradient == 0) return;
    for (std::size_t i = 0; i < tensors.weights.size(); ++i)
        for_vectors(
            stream, tensors.weights[i].count(), [&](auto... arguments) { lanes(now, arguments...); },
            tensors.gradients[i].as<float>(), tensors.weights[i].as<float>(), tensors.first[i].as<float>(),
            with_second ? tensors.second[i].as<float>() : nullptr);
}

} // namespace

void adagrad(CpuStream& stream, const Adagrad& settings, ConstView learning_rate, ConstView factor,
             const RuleTensors& tensors) {
    for_tensors("adagrad", stream, learning_rate, factor, tensors, false,
                [&](Now now, std::int64_t count, const float* gradient, float* weight, float* first, float*) {
                    adagrad_lanes(settings, now, count, gradient, weight, first);
                });
}

void rmsprop(CpuStream& stream, const RmsProp& settings, ConstView learning_rate, ConstView factor,
             const RuleTensors& tensors) {
    const bool momentum = settings.momentum != 0;
    for_tensors("rmsprop", stream, learning_rate, factor, tensors, momentum, [&](auto... arguments) {
        momentum ? rmsprop_lanes<true>(settings, arguments...) : rmsprop_lanes<false>(settings, arguments...);
    });
}

void lion(CpuStream& stream, const Lion& settings, ConstView learning_rate, ConstView factor,
          const RuleTensors& tensors) {
    for_tensors("lion", stream, learning_rate, factor, tensors, false,
                [&](Now now, std::int64_t count, const float* gradient, float* weight, float* first, float*) {
                    lion_lanes(settings, now, count, gradient, weight, first);
                });
}

} // namespace tessera::kernels
