// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10 of Random123, keyed by the seed and a hash of the name.
#include "core/data/random.hpp"

#include <Random123/philox.h>

namespace tessera::data {

RandomKey random_key(std::uint64_t seed, std::string_view name) {
    std::uint64_t hash = 0xcbf29ce484222325u; // FNV-1a
    for (const char letter : name)
        hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3u;
    return {seed, hash};
}

std::array<std::uint32_t, 4> random_words(RandomKey key, std::uint64_t high, std::uint64_t low) {
    const std::uint64_t mixed = (key.seed * 0x9e3779b97f4a7c15u) ^ key.stream;
    const r123::Philox4x32::ctr_type counter = {{static_cast<std::uint32_t>(low), static_cast<std::uint32_t>(low >> 32),
                                                 static_cast<std::uint32_t>(high),
                                                 static_cast<std::uint32_t>(high >> 32)}};
    const r123::Philox4x32::key_type philox_key = {
        {static_cast<std::uint32_t>(mixed), static_cast<std::uint32_t>(mixed >> 32)}};
    const auto words = r123::Philox4x32()(counter, philox_key);
    return {words[0], words[1], words[2], words[3]};
}

std::uint64_t random_below(RandomKey key, std::uint64_t index, std::uint64_t bound) {
    const auto words = random_words(key, 0, index);
    const std::uint64_t value = (static_cast<std::uint64_t>(words[1]) << 32) | words[0];
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(value) * bound) >> 64);
}

} // namespace tessera::data
