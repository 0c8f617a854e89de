// SPDX-License-Identifier: Apache-2.0
// The scale of the loss on the CPU.
#include "kernels/loss_scale.hpp"

#include "kernels/check.hpp"

#include <algorithm>
#include <cmath>

namespace tessera::kernels {

void unscale(CpuStream&, ConstView square_sum, float max_norm, const LossScaling& scaling, const LossScaleState& state,
             View norm, View factor) {
    for (const ConstView& one : {square_sum, ConstView(norm), ConstView(factor), ConstView(state.scale),
                                 ConstView(state.good_steps), ConstView(state.skipped_steps)})
        check_count("unscale", "a scalar", one, 1);
    float& scale = *state.scale.as<float>();
    float& good_steps = *state.good_steps.as<float>();
    const float sum = *square_sum.as<float>(), length = std::sqrt(sum) / scale, wanted = max_norm / (length + 1e-6f);
    *norm.as<float>() = length;
    if (!std::isfinite(sum)) {
        *factor.as<float>() = 0;
        *state.skipped_steps.as<float>() += 1;
        scale *= scaling.backoff;
        good_steps = 0;
        return;
    }
    *factor.as<float>() = (max_norm <= 0 || wanted > 1 ? 1.0f : wanted) / scale;
    good_steps += 1;
    if (good_steps < static_cast<float>(scaling.interval)) return;
    scale = std::min(scale * scaling.growth, largest_loss_scale);
    good_steps = 0;
}

} // namespace tessera::kernels
