// SPDX-License-Identifier: Apache-2.0
// Checks and factors of the optimizer steps.
#include "kernels/update_step.hpp"

#include "kernels/check.hpp"

#include <cmath>
#include <cstring>

namespace tessera::kernels {

AdamFactors factors_of(const Adam& settings) {
    return {.coupled_decay = settings.decoupled ? 0.0f : settings.weight_decay,
            .first_share = static_cast<float>(1 - static_cast<double>(settings.beta1)),
            .second_share = static_cast<float>(1 - static_cast<double>(settings.beta2)),
            .epsilon = settings.epsilon};
}

void write_adam_pace(View host, const Adam& settings, float learning_rate, std::int64_t step) {
    check_count("write_adam_pace", "the pace", host, adam_pace_count);
    const auto passed = static_cast<double>(step);
    const double first_correction = 1 - std::pow(static_cast<double>(settings.beta1), passed);
    const double second_correction = 1 - std::pow(static_cast<double>(settings.beta2), passed);
    const double decay = static_cast<double>(learning_rate) * settings.weight_decay;
    const AdamPace pace{.shrink = settings.decoupled ? static_cast<float>(1 - decay) : 1.0f,
                        .step_size = static_cast<float>(learning_rate / first_correction),
                        .root_factor = static_cast<float>(1 / std::sqrt(second_correction))};
    std::memcpy(host.as<float>(), &pace, sizeof pace);
}

namespace {

void check_like(const char* kernel, const char* name, std::span<const View> views, std::span<const View> weights) {
    check_tensors(kernel, name, views.size(), weights.size());
    for (std::size_t i = 0; i < weights.size(); ++i)
        check_count(kernel, name, views[i], weights[i].count());
}

void check_copies(const char* kernel, std::span<const View> copies, std::span<const View> weights) {
    if (copies.empty()) return;
    check_tensors(kernel, "the copies", copies.size(), weights.size());
    for (std::size_t i = 0; i < weights.size(); ++i)
        if (copies[i]) check_count(kernel, "a copy", copies[i], weights[i].count());
}

} // namespace

void check(const AdamTensors& tensors, ConstView pace, ConstView factor) {
    check_count("adam", "the pace", pace, adam_pace_count);
    check_count("adam", "the factor", factor, 1);
    check_like("adam", "the gradients", tensors.gradients, tensors.weights);
    check_like("adam", "the first moments", tensors.first_moments, tensors.weights);
    check_like("adam", "the second moments", tensors.second_moments, tensors.weights);
    check_copies("adam", tensors.low_precision_copies, tensors.weights);
}

void check(const SgdTensors& tensors, ConstView learning_rate, ConstView factor, bool with_velocities) {
    check_count("sgd", "the learning rate", learning_rate, 1);
    check_count("sgd", "the factor", factor, 1);
    check_like("sgd", "the gradients", tensors.gradients, tensors.weights);
    if (with_velocities) check_like("sgd", "the velocities", tensors.velocities, tensors.weights);
    check_copies("sgd", tensors.low_precision_copies, tensors.weights);
}

View copy_of(std::span<const View> low_precision_copies, std::size_t i) {
    return low_precision_copies.empty() ? View() : low_precision_copies[i];
}

} // namespace tessera::kernels
