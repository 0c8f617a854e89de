// SPDX-License-Identifier: Apache-2.0
// What changes from call to call of a kernel that draws random numbers lies in memory, so that a recorded call can be
// replayed.
#pragma once

#include "kernels/tensor.hpp"

#include <cstdint>

namespace tessera::kernels {

// A seed (mixed, as in philox_key), a step, and a sample. In memory as i32.
struct Draw {
    std::uint32_t seed_low, seed_high, step_low, step_high, sample_low, sample_high;
};
inline constexpr std::int64_t draw_words = sizeof(Draw) / sizeof(std::uint32_t);

// host: draw_words i32
void write_draw(View host, std::uint64_t seed, std::uint64_t step, std::uint64_t sample);

} // namespace tessera::kernels
