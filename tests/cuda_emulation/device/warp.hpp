// SPDX-License-Identifier: Apache-2.0
// Barriers, votes and shuffles, with CUDA's names. All lanes that the mask names must come to the same place, or the
// kernel fails; a lane that did not take part gives all ones (not a number, -1).
#pragma once

#include "tests/cuda_emulation/device/execution.hpp"

#include <algorithm>

namespace tessera::emulation {

struct Gathered {
    const std::uint64_t* value; // what each lane gave
    std::uint32_t lanes;        // which of them did
};

// Waits until every live lane of the mask has come, and shows each what the others brought.
Gathered collective(std::uint32_t mask, std::uint64_t value, const char* name, Site site);
void sync_warp(std::uint32_t mask, Site site);
int sync_block(int vote, const char* name, Site site); // the sum of the votes

template <class T> std::uint64_t to_bits(T value) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
}
template <class T> T from_bits(std::uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// The value of another lane, or the own one where that lies beyond the segment.
template <class T>
TESSERA_UNCHECKED T from_lane(std::uint32_t mask, T own, int lane, bool inside, const char* name, Site site) {
    const Gathered all = collective(mask, to_bits(own), name, site);
    if (!inside) return own;
    return from_bits<T>(all.lanes >> (lane & 31) & 1 ? all.value[lane & 31] : ~std::uint64_t{0});
}

TESSERA_UNCHECKED inline unsigned lanes_with(std::uint32_t mask, std::uint64_t own, std::uint64_t wanted,
                                             const char* name, Site site) {
    const Gathered all = collective(mask, own, name, site);
    unsigned result = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        result |= static_cast<unsigned>(all.lanes >> lane & 1 && all.value[lane] == wanted) << lane;
    return result;
}

template <class T, class Combine> TESSERA_UNCHECKED T reduce(std::uint32_t mask, T value, Combine combine, Site site) {
    const Gathered all = collective(mask, to_bits(value), "__reduce_sync", site);
    T result{};
    bool first = true;
    for (int lane = 0; lane < 32; ++lane) {
        if (!(all.lanes >> lane & 1)) continue;
        const T other = from_bits<T>(all.value[lane]);
        result = first ? other : combine(result, other);
        first = false;
    }
    return result;
}

inline int lane() { return current_thread->lane; }

} // namespace tessera::emulation

#define TESSERA_SITE ::tessera::emulation::Site site = ::tessera::emulation::Site::current()

inline void __syncthreads(TESSERA_SITE) { tessera::emulation::sync_block(0, "__syncthreads", site); }
inline int __syncthreads_count(int yes, TESSERA_SITE) {
    return tessera::emulation::sync_block(yes != 0, "__syncthreads_count", site);
}
inline int __syncthreads_or(int yes, TESSERA_SITE) {
    return tessera::emulation::sync_block(yes != 0, "__syncthreads_or", site) > 0;
}
inline int __syncthreads_and(int yes, TESSERA_SITE) {
    return tessera::emulation::sync_block(yes == 0, "__syncthreads_and", site) == 0;
}
inline void __syncwarp(unsigned mask = ~0u, TESSERA_SITE) { tessera::emulation::sync_warp(mask, site); }

TESSERA_UNCHECKED inline unsigned __activemask() { return 1u << tessera::emulation::lane(); }
inline unsigned __ballot_sync(unsigned mask, int yes, TESSERA_SITE) {
    return tessera::emulation::lanes_with(mask, yes != 0, 1, "__ballot_sync", site);
}
inline int __any_sync(unsigned mask, int yes, TESSERA_SITE) { return __ballot_sync(mask, yes, site) != 0; }
inline int __all_sync(unsigned mask, int yes, TESSERA_SITE) { return __ballot_sync(mask, !yes, site) == 0; }
template <class T> unsigned __match_any_sync(unsigned mask, T value, TESSERA_SITE) {
    const std::uint64_t bits = tessera::emulation::to_bits(value);
    return tessera::emulation::lanes_with(mask, bits, bits, "__match_any_sync", site);
}

// Segments are of `width` lanes: a power of two.
template <class T> TESSERA_UNCHECKED T __shfl_sync(unsigned mask, T value, int from, int width = 32, TESSERA_SITE) {
    const int lane = tessera::emulation::lane();
    return tessera::emulation::from_lane(mask, value, (lane & ~(width - 1)) | (from & (width - 1)), true, "__shfl_sync",
                                         site);
}
template <class T>
TESSERA_UNCHECKED T __shfl_xor_sync(unsigned mask, T value, int distance, int width = 32, TESSERA_SITE) {
    const int lane = tessera::emulation::lane(), from = lane ^ distance;
    return tessera::emulation::from_lane(mask, value, from, from <= (lane | (width - 1)), "__shfl_xor_sync", site);
}
template <class T>
TESSERA_UNCHECKED T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, TESSERA_SITE) {
    const int lane = tessera::emulation::lane(), from = lane + static_cast<int>(distance);
    return tessera::emulation::from_lane(mask, value, from, from <= (lane | (width - 1)), "__shfl_down_sync", site);
}
template <class T>
TESSERA_UNCHECKED T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, TESSERA_SITE) {
    const int lane = tessera::emulation::lane(), from = lane - static_cast<int>(distance);
    return tessera::emulation::from_lane(mask, value, from, from >= (lane & ~(width - 1)), "__shfl_up_sync", site);
}

template <class T> T __reduce_add_sync(unsigned mask, T value, TESSERA_SITE) {
    return tessera::emulation::reduce(
        mask, value, [](T a, T b) { return static_cast<T>(a + b); }, site);
}
template <class T> T __reduce_max_sync(unsigned mask, T value, TESSERA_SITE) {
    return tessera::emulation::reduce(
        mask, value, [](T a, T b) { return std::max(a, b); }, site);
}
template <class T> T __reduce_min_sync(unsigned mask, T value, TESSERA_SITE) {
    return tessera::emulation::reduce(
        mask, value, [](T a, T b) { return std::min(a, b); }, site);
}
