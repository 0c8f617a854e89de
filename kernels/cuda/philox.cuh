// SPDX-License-Identifier: Apache-2.0
// The words of kernels/random.hpp on the GPU, to the last bit.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/philox.hpp"

namespace tessera::cuda {

inline constexpr int random_run = 16; // neighbouring elements with the same word of neighbouring blocks: random_place
static_assert(random_group == 4 * random_run);

struct RandomWords {
    std::uint32_t word[4];
};

// As random_words of kernels/random.hpp.
__device__ __forceinline__ RandomWords random_words_of(PhiloxKey key, std::uint64_t high, std::uint64_t low) {
    std::uint32_t a = static_cast<std::uint32_t>(low), b = static_cast<std::uint32_t>(low >> 32);
    std::uint32_t c = static_cast<std::uint32_t>(high), d = static_cast<std::uint32_t>(high >> 32);
#pragma unroll
    for (int round = 0; round < philox::rounds; ++round) {
        const std::uint64_t first = std::uint64_t{philox::first_multiplier} * a;
        const std::uint64_t second = std::uint64_t{philox::second_multiplier} * c;
        a = static_cast<std::uint32_t>(second >> 32) ^ b ^ key.word[0];
        b = static_cast<std::uint32_t>(second);
        c = static_cast<std::uint32_t>(first >> 32) ^ d ^ key.word[1];
        d = static_cast<std::uint32_t>(first);
        key.word[0] += philox::first_key_step;
        key.word[1] += philox::second_key_step;
    }
    return {{a, b, c, d}};
}

} // namespace tessera::cuda
