// SPDX-License-Identifier: Apache-2.0
// What an optimizer step does on the host, for every kind of device: its checks, and what neither element nor step
// changes.
#pragma once

#include "kernels/update.hpp"

namespace tessera::kernels {

struct AdamFactors {
    float coupled_decay; // of the weight, added to the gradient
    float first_share, second_share;
    float epsilon;
};

// Computed in double.
AdamFactors factors_of(const Adam& settings);

// Throw InternalError where lists differ in length, or views in their counts.
void check(const AdamTensors& tensors, ConstView pace, ConstView factor);
void check(const SgdTensors& tensors, ConstView learning_rate, ConstView factor, bool with_velocities);

// The copy of tensor `i`; null where there is none.
View copy_of(std::span<const View> low_precision_copies, std::size_t i);

} // namespace tessera::kernels
