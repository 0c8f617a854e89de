// SPDX-License-Identifier: Apache-2.0
// The place of a sample in the numbers that dropout draws, as it lies in memory.
#include "kernels/dropout.hpp"

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

void write_dropout_place(View host, std::uint64_t seed, std::uint64_t step, std::uint64_t sample) {
    check_count("write_dropout_place", "the place", host, dropout_place_words);
    const PhiloxKey key = philox_key({seed, 0});
    const Halves of_step = halves(step), of_sample = halves(sample);
    const DropoutPlace place{key.word[0], key.word[1], of_step.low, of_step.high, of_sample.low, of_sample.high};
    std::memcpy(host.as<std::int32_t>(), &place, sizeof place);
}

} // namespace tessera::kernels
