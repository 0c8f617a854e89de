// SPDX-License-Identifier: Apache-2.0
// Rounding by chance (Gupta et al. 2015): a number goes to either neighbour, to the nearer with the greater chance,
// such that the expected result is the number itself. What rounds to nearest errs to the same side each time.
#pragma once

#include "kernels/draw.hpp"
#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

namespace tessera::kernels {

struct StochasticCast {
    std::uint64_t stream = 0;        // of the random key
    std::uint64_t first_element = 0; // element i of the view is element first_element + i of the logical tensor
};

// y[i] = the upper half of x[i] + r, r being the upper 16 bits of the element's random word (random_place), as bits:
// the magnitude is rounded up with the chance of what is cut off. NaN and infinity as cast() has them. x: f32   y:
// bf16, equal counts. draw: draw_words i32, read when the kernel runs; its sample does not matter. The same bits on
// every device.
void stochastic_cast(CpuStream& stream, const StochasticCast& which, ConstView draw, ConstView x, View y);
void stochastic_cast(CudaStream& stream, const StochasticCast& which, ConstView draw, ConstView x, View y);

} // namespace tessera::kernels
