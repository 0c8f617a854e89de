// SPDX-License-Identifier: Apache-2.0
// Dropout whose mask is a function of key, step and element, so that it is never stored.
#pragma once

#include "kernels/draw.hpp"
#include "kernels/random.hpp"
#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

namespace tessera::kernels {

struct Dropout {
    float probability = 0;            // of an element to become 0, in [0, 1]
    std::uint64_t stream = 0;         // of the random key
    std::int64_t sample_elements = 1; // of one sample
    std::int64_t first_element = 0;   // of x, in its sample
};

// y[i] = x[i] / (1 - probability) where the uniform number of element sample * sample_elements + first_element + i of
// the step is >= probability, else 0. x, y: one count, both f32, bf16 or f16; y may be x's memory. draw: draw_words i32
// with the sample in which x begins, read when the kernel runs. The gradient is the same function on dy.
void dropout(CpuStream& stream, const Dropout& which, ConstView draw, ConstView x, View y);
void dropout(CudaStream& stream, const Dropout& which, ConstView draw, ConstView x, View y);

} // namespace tessera::kernels
