// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10's constants and its key, for the generators of every kind of device (see random.hpp).
#pragma once

#include "kernels/random.hpp"

#include <cstdint>

namespace tessera {

inline constexpr std::int64_t random_group = 64; // elements whose blocks lie side by side: see random_place

struct PhiloxKey {
    std::uint32_t word[2];
};

// The seed is mixed (MurmurHash3's last step, a bijection that keeps 0), so that neighbouring seeds give unrelated
// keys.
inline PhiloxKey philox_key(RandomKey key) {
    std::uint64_t mixed = key.seed;
    mixed = (mixed ^ (mixed >> 33)) * 0xff51afd7ed558ccdull;
    mixed = (mixed ^ (mixed >> 33)) * 0xc4ceb9fe1a85ec53ull;
    mixed = (mixed ^ (mixed >> 33)) ^ key.stream;
    return {{static_cast<std::uint32_t>(mixed), static_cast<std::uint32_t>(mixed >> 32)}};
}

namespace philox {

// Of words 0 and 2 of the counter, and of both words of the key. Scalars: device code has no arrays of the host.
inline constexpr std::uint32_t first_multiplier = 0xd2511f53u, second_multiplier = 0xcd9e8d57u;
inline constexpr std::uint32_t first_key_step = 0x9e3779b9u, second_key_step = 0xbb67ae85u;
inline constexpr int rounds = 10;

} // namespace philox
} // namespace tessera
