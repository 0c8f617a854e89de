// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10 on sixteen lanes: 16 blocks, and so 64 neighbouring elements of a random tensor, at a time.
#pragma once

#include "kernels/cpu/loops.hpp"
#include "kernels/philox.hpp"

namespace tessera {

namespace simd {

// The upper halves of the 64-bit products.
TESSERA_INLINE Words high_product(Words a, std::uint32_t b) {
    using Longs = std::uint64_t __attribute__((vector_size(64)));
    Longs pairs;
    std::memcpy(&pairs, &a, sizeof pairs);
    const Longs even = (pairs & 0xffffffffull) * b, odd = (pairs >> 32) * b;
    const Longs joined = (even >> 32) | (odd & 0xffffffff00000000ull);
    Words high;
    std::memcpy(&high, &joined, sizeof high);
    return high;
}

// Words 0 to 3 of blocks [group * 16, group * 16 + 16): element group * 64 + 16 w + l is lane l of word w.
struct RandomGroup {
    Words word[4];
};

TESSERA_INLINE RandomGroup random_group(PhiloxKey key, std::uint64_t high, std::uint64_t group) {
    const std::uint64_t block = group * lanes;
    const Words lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Words a = lane + static_cast<std::uint32_t>(block); // no carry: the low four bits of `block` are 0
    Words b = Words{} + static_cast<std::uint32_t>(block >> 32);
    Words c = Words{} + static_cast<std::uint32_t>(high);
    Words d = Words{} + static_cast<std::uint32_t>(high >> 32);
    for (int round = 0; round < philox::rounds; ++round) {
        const Words first_high = high_product(a, philox::first_multiplier), first_low = a * philox::first_multiplier;
        const Words second_high = high_product(c, philox::second_multiplier),
                    second_low = c * philox::second_multiplier;
        a = second_high ^ b ^ key.word[0];
        b = second_low;
        c = first_high ^ d ^ key.word[1];
        d = first_low;
        key.word[0] += philox::first_key_step;
        key.word[1] += philox::second_key_step;
    }
    return {{a, b, c, d}};
}

// In [0, 1), 24 bits: the same number as random_uniform's.
TESSERA_INLINE Floats uniform(Words words) {
    const Words upper = words >> 8;
    Ints whole;
    std::memcpy(&whole, &upper, sizeof whole);
    return __builtin_convertvector(whole, Floats) * 0x1p-24f;
}

} // namespace simd

// Calls whole(first_group, groups, offset) for the groups that lie fully inside elements [first, first + count) and
// part(group, begin, end, offset) for the one or two that do not; [begin, end) are the elements within the group, and
// offset is where the piece starts in the view.
template <class Whole, class Part>
void for_random_groups(std::uint64_t first, std::int64_t count, const Whole& whole, const Part& part) {
    std::int64_t offset = 0;
    std::uint64_t group = first / random_group;
    if (const auto begin = static_cast<std::int64_t>(first % random_group); begin != 0 && count > 0) {
        const std::int64_t end = std::min(random_group, begin + count);
        part(group++, begin, end, offset);
        offset += end - begin;
    }
    if (const std::int64_t groups = (count - offset) / random_group; groups > 0) {
        whole(group, groups, offset);
        group += static_cast<std::uint64_t>(groups);
        offset += groups * random_group;
    }
    if (offset < count) part(group, std::int64_t{0}, count - offset, offset);
}

} // namespace tessera
