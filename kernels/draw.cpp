// SPDX-License-Identifier: Apache-2.0
// A draw as it lies in memory.
#include "kernels/draw.hpp"

#include "kernels/check.hpp"
#include "kernels/philox.hpp"

#include <cstring>

namespace tessera::kernels {
namespace {

struct Halves {
    std::uint32_t low, high;
};

Halves halves(std::uint64_t number) {
    return {static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(number >> 32)};
}

} // namespace

void write_draw(View host, std::uint64_t seed, std::uint64_t step, std::uint64_t sample) {
    check_count("write_draw", "the draw", host, draw_words);
    const PhiloxKey key = philox_key({seed, 0});
    const Halves of_step = halves(step), of_sample = halves(sample);
    const Draw draw{key.word[0], key.word[1], of_step.low, of_step.high, of_sample.low, of_sample.high};
    std::memcpy(host.as<std::int32_t>(), &draw, sizeof draw);
}

} // namespace tessera::kernels
