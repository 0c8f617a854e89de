// SPDX-License-Identifier: Apache-2.0
// By libxxhash.
#include "core/data/content_hash.hpp"

#include <fmt/format.h>
#include <xxhash.h>

namespace tessera {

ContentHash::ContentHash()
    : state_(XXH3_createState(), [](void* state) { XXH3_freeState(static_cast<XXH3_state_t*>(state)); }) {
    XXH3_128bits_reset(static_cast<XXH3_state_t*>(state_.get()));
}

void ContentHash::add(const void* data, std::size_t bytes) {
    XXH3_128bits_update(static_cast<XXH3_state_t*>(state_.get()), data, bytes);
}

std::string ContentHash::text() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(static_cast<const XXH3_state_t*>(state_.get()));
    return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::uint64_t short_hash(const void* data, std::size_t bytes, std::uint64_t seed) {
    return XXH3_64bits_withSeed(data, bytes, seed);
}

} // namespace tessera
