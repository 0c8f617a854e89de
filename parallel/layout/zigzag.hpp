// SPDX-License-Identifier: Apache-2.0
// Zig-zag shards of a sequence, and which of them attend to which: of 2 p chunks, rank r of p holds chunks r and
// 2 p - 1 - r, so that under a causal mask all ranks have equal work (Llama 3: Grattafiori et al. 2024, section 3.3.2).
#pragma once

#include "parallel/layout/placement.hpp"

#include <array>
#include <vector>

namespace tessera {

// The two ranges of [0, size) that the index-th of `parts` ranks holds, in this order. `size` is a multiple of
// 2 parts, else InternalError. Where chunks are dealt so, the *place* of an element is its index in the shards of rank
// 0, 1, … one behind the other.
std::array<Range, 2> zigzag_ranges(std::int64_t size, int parts, int index);

// A run of places and the elements that lie there.
struct ZigzagRun {
    Range places;
    std::int64_t first; // element of the true order at the first place
};

// The places [begin, end) of a dim of `size`, cut where the next place holds another element than the next one.
std::vector<ZigzagRun> zigzag_runs(Range places, std::int64_t size, int parts);

// Queries of one half of a rank's shard and keys of one half of another's, all of which they see: 0 the earlier, 1 the
// later half.
struct HalfPair {
    int queries, keys;
    friend bool operator==(const HalfPair&, const HalfPair&) = default;
};

// What the queries of rank `rank` see of the keys of another rank. Of its own shard, which is in the order of the
// sequence, a query sees what a causal mask over the shard says.
std::vector<HalfPair> pairs_seen(int rank, int of_rank, bool causal);

} // namespace tessera
