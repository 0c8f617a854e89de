// SPDX-License-Identifier: Apache-2.0
// What the judgement of a step is checked for before it runs, the same on the CPU and on the GPU. Host code only.
#pragma once

#include "kernels/divergence.hpp"

namespace tessera::kernels {

// Throws InternalError for views of wrong counts.
void check_judgement(const ConstView& loss, const ConstView& norm, const ConstView& factor,
                     const DivergenceState& state, const ConstView& kept, const ConstView& verdict);

} // namespace tessera::kernels
