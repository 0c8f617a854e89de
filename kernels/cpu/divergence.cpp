// SPDX-License-Identifier: Apache-2.0
// The judgement of a step on the CPU.
#include "kernels/divergence.hpp"

#include "kernels/divergence_check.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>

namespace tessera::kernels {
namespace {

struct Spread {
    float mean = 0, deviation = 0;
};

Spread spread_of(const float* numbers, std::int64_t count) {
    float sum = 0, squares = 0;
    for (std::int64_t i = 0; i < count; ++i)
        sum += numbers[i];
    const float mean = sum / static_cast<float>(count);
    for (std::int64_t i = 0; i < count; ++i)
        squares += (numbers[i] - mean) * (numbers[i] - mean);
    return {mean, std::sqrt(squares / static_cast<float>(count))};
}

} // namespace

void judge_step(CpuStream&, ConstView loss, ConstView norm, ConstView factor, const DivergenceLimits& limits,
                const DivergenceState& state, View kept, View verdict) {
    check_judgement(loss, norm, factor, state, kept, verdict);
    const std::int64_t window = state.losses.count();
    float *losses = state.losses.as<float>(), *norms = state.norms.as<float>(), *found = verdict.as<float>();
    float& good_steps = *state.good_steps.as<float>();
    const float of_loss = *loss.as<float>(), of_norm = *norm.as<float>(),
                logarithm = std::log(std::max(of_norm, FLT_MIN));
    std::fill_n(found, divergence_verdict_count, 0.0f);
    *kept.as<float>() = *factor.as<float>();
    if (limits.scaled && *factor.as<float>() == 0) return;
    int wrong = (std::isfinite(of_loss) ? 0 : loss_not_finite) | (std::isfinite(of_norm) ? 0 : norm_not_finite);
    if (wrong == 0 && limits.z_score > 0 && good_steps >= static_cast<float>(window)) {
        const Spread of_losses = spread_of(losses, window), of_norms = spread_of(norms, window);
        found[1] =
            (of_loss - of_losses.mean) / std::max({of_losses.deviation, 1e-3f * std::abs(of_losses.mean), FLT_MIN});
        found[2] = (logarithm - of_norms.mean) / std::max(of_norms.deviation, 1e-3f);
        wrong = (found[1] > limits.z_score ? loss_outlier : 0) | (found[2] > limits.z_score ? norm_outlier : 0);
    }
    found[0] = static_cast<float>(wrong);
    if (wrong != 0) {
        *kept.as<float>() = 0;
        *state.skipped_steps.as<float>() += 1;
        return;
    }
    const std::int64_t place = static_cast<std::int64_t>(good_steps) % window;
    losses[place] = of_loss;
    norms[place] = logarithm;
    good_steps = good_steps + 1 < static_cast<float>(2 * window) ? good_steps + 1 : static_cast<float>(window);
}

} // namespace tessera::kernels
