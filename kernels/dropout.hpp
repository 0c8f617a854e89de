// SPDX-License-Identifier: Apache-2.0
// Dropout whose mask is a function of key, step and element, so that it is never stored.
#pragma once

#include "kernels/random.hpp"
#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

namespace tessera::kernels {

struct Dropout {
    float probability = 0;            // of an element to become 0, in [0, 1]
    std::uint64_t stream = 0;         // of the random key
    std::int64_t sample_elements = 1; // of one sample
};

// What changes from call to call lies in memory, so that a recorded call can be replayed: a seed (mixed, as in
// philox_key), a step, and the sample with which x begins. Written on the host, as i32.
struct DropoutPlace {
    std::uint32_t seed_low, seed_high, step_low, step_high, sample_low, sample_high;
};
inline constexpr std::int64_t dropout_place_words = sizeof(DropoutPlace) / sizeof(std::uint32_t);
void write_dropout_place(View host, std::uint64_t seed, std::uint64_t step, std::uint64_t sample);

// y[i] = x[i] / (1 - probability) where the uniform number of element sample * sample_elements + i of the step is
// >= probability, else 0. x, y: one count, both f32 or both bf16; y may be x's memory. place: read when the kernel
// runs. The gradient is the same function on dy.
void dropout(CpuStream& stream, const Dropout& which, ConstView place, ConstView x, View y);
void dropout(CudaStream& stream, const Dropout& which, ConstView place, ConstView x, View y);

} // namespace tessera::kernels
