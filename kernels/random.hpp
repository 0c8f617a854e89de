// SPDX-License-Identifier: Apache-2.0
// Random numbers as a pure function of seed, name and index (Philox4x32-10, Salmon et al. 2011): no state, no order.
#pragma once

#include "kernels/tensor.hpp"

#include <array>
#include <cstdint>
#include <string_view>

namespace tessera {

struct RandomKey {
    std::uint64_t seed = 0;
    std::uint64_t stream = 0;
};

// The stream is the FNV-1a hash (64 bits) of the name.
RandomKey random_key(std::uint64_t seed, std::string_view name);

// One Philox block: the counter is low (words 0 and 1) and high (words 2 and 3), the 64-bit key a mix of both parts of
// the RandomKey that is a bijection of each and zero for the zero key.
std::array<std::uint32_t, 4> random_words(RandomKey key, std::uint64_t high, std::uint64_t low);

// Element i of a random tensor is word (i % 64) / 16 of block (i / 64) * 16 + i % 16: sixteen blocks side by side give
// 64 neighbours without a transposition. `high` tells tensors of one key apart (a step number).
struct RandomPlace {
    std::uint64_t block;
    int word;
};
constexpr RandomPlace random_place(std::uint64_t element) {
    return {element / 64 * 16 + element % 16, static_cast<int>(element % 64 / 16)};
}

// In [0, 1): the upper 24 bits of the word at random_place(index).
float random_uniform(RandomKey key, std::uint64_t index);

// In [0, bound): a block per index, 64 bits multiplied and shifted; the bias is below bound / 2^64. bound > 0.
std::uint64_t random_below(RandomKey key, std::uint64_t index, std::uint64_t bound);

// Element i of y is element first_element + i of the logical tensor, so any slicing of a tensor gives the same numbers.
// y: f32, bf16 or f16. Normal numbers by Box and Muller's formula from the words of one block; uniform ones in [low,
// high).
void fill_normal(View y, RandomKey key, float mean, float deviation, std::uint64_t first_element);
void fill_uniform(View y, RandomKey key, float low, float high, std::uint64_t first_element);

} // namespace tessera
