// SPDX-License-Identifier: Apache-2.0
// Random numbers as a pure function of seed, name and index (Philox4x32-10): what the data needs of them.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace tessera::data {

struct RandomKey {
    std::uint64_t seed = 0;
    std::uint64_t stream = 0;
};

RandomKey random_key(std::uint64_t seed, std::string_view name);
std::array<std::uint32_t, 4> random_words(RandomKey key, std::uint64_t high, std::uint64_t low);

// In [0, bound), bound > 0.
std::uint64_t random_below(RandomKey key, std::uint64_t index, std::uint64_t bound);

} // namespace tessera::data
