// SPDX-License-Identifier: Apache-2.0
// Chunks, and the order in which they lie.
#include "parallel/layout/zigzag.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {

std::array<Range, 2> zigzag_ranges(std::int64_t size, int parts, int index) {
    if (parts < 1 || size % (2 * parts) != 0 || index < 0 || index >= parts)
        throw InternalError(fmt::format("{} elements cannot be dealt out in {} chunks", size, 2 * parts));
    const std::int64_t chunk = size / (2 * parts), last = 2 * parts - 1 - index;
    return {Range{index * chunk, (index + 1) * chunk}, Range{last * chunk, (last + 1) * chunk}};
}

std::vector<ZigzagRun> zigzag_runs(Range places, std::int64_t size, int parts) {
    std::vector<ZigzagRun> runs;
    std::int64_t begin = 0; // place
    for (int part = 0; part < parts; ++part)
        for (const Range& chunk : zigzag_ranges(size, parts, part)) {
            const Range there{std::max(places.begin, begin), std::min(places.end, begin + chunk.size())};
            if (there.size() > 0) runs.push_back({there, chunk.begin + there.begin - begin});
            begin += chunk.size();
        }
    return runs;
}

// Rank r has chunks r and 2 p - 1 - r: the earlier half of any shard comes before the later half of all, and where the
// one shard's earlier half comes first, its later half comes last.
std::vector<HalfPair> pairs_seen(int rank, int of_rank, bool causal) {
    if (!causal) return {{0, 0}, {0, 1}, {1, 0}, {1, 1}};
    if (of_rank < rank) return {{0, 0}, {1, 0}};
    return {{1, 0}, {1, 1}};
}

} // namespace tessera
