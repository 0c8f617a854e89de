// SPDX-License-Identifier: Apache-2.0
// The scale of the loss in f16 training (Micikevicius et al. 2018, section 3.2): the gradient of scale * loss keeps
// what would vanish below f16's smallest number. The scale follows the gradients: it falls when they overflow.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

namespace tessera::kernels {

struct LossScaling {
    float growth = 2;             // of the scale after `interval` good steps in a row
    float backoff = 0.5f;         // of the scale after a step whose gradients are not finite
    std::int64_t interval = 2000; // at most 2^24, beyond which a float does not count
};

inline constexpr float largest_loss_scale = 0x1p32f; // scaled gradients and their squares stay far from f32's end

// One f32 each.
struct LossScaleState {
    View scale, good_steps, skipped_steps;
};

// Of gradients that are `scale` times the true ones, square_sum being theirs:
//   norm = sqrt(square_sum) / scale      factor = min(1, max_norm / (norm + 1e-6)) / scale; 1 / scale when max_norm <=
//   0
// Where square_sum is not finite, factor is 0 (a step that changes nothing, kernels/update.hpp) and norm not finite.
// Then the state is made ready for the next step. With powers of two the division changes no bit of a gradient.
void unscale(CpuStream& stream, ConstView square_sum, float max_norm, const LossScaling& scaling,
             const LossScaleState& state, View norm, View factor);
void unscale(CudaStream& stream, ConstView square_sum, float max_norm, const LossScaling& scaling,
             const LossScaleState& state, View norm, View factor);

} // namespace tessera::kernels
