// SPDX-License-Identifier: Apache-2.0
// Dropout whose mask is a function of key, step and element, so that it is never stored.
#pragma once

#include "kernels/random.hpp"
#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

namespace tessera::kernels {

struct Dropout {
    float probability = 0; // of an element to become 0, in [0, 1]
    RandomKey key;
    std::uint64_t step = 0;
    std::uint64_t first_element = 0; // element i of the view is element first_element + i of the logical tensor
};

// y[i] = x[i] / (1 - probability) where the uniform number of the element and step is >= probability, else 0.
// x, y: one count, both f32, bf16 or f16; y may be x's memory. The gradient is the same function on dy.
void dropout(CpuStream& stream, const Dropout& which, ConstView x, View y);
void dropout(CudaStream& stream, const Dropout& which, ConstView x, View y);

} // namespace tessera::kernels
