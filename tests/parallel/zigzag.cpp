// SPDX-License-Identifier: Apache-2.0
// Zig-zag shards: each element on one rank, what a causal mask lets queries see covered once, and work that is equal.
#include "parallel/layout/zigzag.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <gtest/gtest.h>

using namespace tessera;

namespace {

// The elements of a rank's shard, in its order.
std::vector<std::int64_t> elements(std::int64_t size, int ranks, int rank) {
    std::vector<std::int64_t> found;
    for (const Range& chunk : zigzag_ranges(size, ranks, rank))
        for (std::int64_t i = chunk.begin; i < chunk.end; ++i)
            found.push_back(i);
    return found;
}

// How often the queries of the whole see the keys of the whole, by plain counting of what the ranks do.
std::vector<int> seen(std::int64_t size, int ranks, bool causal, std::vector<std::int64_t>& work) {
    std::vector<int> counts(static_cast<std::size_t>(size * size));
    work.assign(static_cast<std::size_t>(ranks), 0);
    for (int rank = 0; rank < ranks; ++rank) {
        const auto note = [&](std::int64_t query, std::int64_t key) {
            ++counts[static_cast<std::size_t>(query * size + key)];
            ++work[static_cast<std::size_t>(rank)];
        };
        const std::vector<std::int64_t> queries = elements(size, ranks, rank);
        for (std::size_t q = 0; q < queries.size(); ++q)
            for (std::size_t k = 0; k < (causal ? q + 1 : queries.size()); ++k)
                note(queries[q], queries[k]);
        for (int other = 0; other < ranks; ++other) {
            if (other == rank) continue;
            const auto query_halves = zigzag_ranges(size, ranks, rank), key_halves = zigzag_ranges(size, ranks, other);
            for (const HalfPair& pair : pairs_seen(rank, other, causal)) {
                const Range q = query_halves[static_cast<std::size_t>(pair.queries)];
                const Range k = key_halves[static_cast<std::size_t>(pair.keys)];
                for (std::int64_t query = q.begin; query < q.end; ++query)
                    for (std::int64_t key = k.begin; key < k.end; ++key)
                        note(query, key);
            }
        }
    }
    return counts;
}

} // namespace

TEST(Zigzag, EachElementIsOnOneRankInOrder) {
    for (const int ranks : {1, 2, 3, 4, 8}) {
        const std::int64_t size = 2 * ranks * 5;
        std::vector<std::int64_t> all;
        for (int rank = 0; rank < ranks; ++rank) {
            const std::vector<std::int64_t> part = elements(size, ranks, rank);
            EXPECT_EQ(static_cast<std::int64_t>(part.size()), size / ranks);
            EXPECT_TRUE(std::ranges::is_sorted(part));
            all.insert(all.end(), part.begin(), part.end());
        }
        std::ranges::sort(all);
        for (std::int64_t i = 0; i < size; ++i)
            EXPECT_EQ(all[static_cast<std::size_t>(i)], i);
    }
    EXPECT_EQ(elements(8, 2, 0), (std::vector<std::int64_t>{0, 1, 6, 7}));
    EXPECT_EQ(elements(8, 2, 1), (std::vector<std::int64_t>{2, 3, 4, 5}));
    EXPECT_THROW(zigzag_ranges(10, 2, 0), InternalError);
    EXPECT_THROW(zigzag_ranges(8, 2, 2), InternalError);
}

TEST(Zigzag, RunsSayWhatLiesAtEachPlace) {
    for (const int ranks : {1, 2, 3}) {
        const std::int64_t size = 2 * ranks * 3;
        std::vector<std::int64_t> at; // by place
        for (int rank = 0; rank < ranks; ++rank)
            for (const std::int64_t element : elements(size, ranks, rank))
                at.push_back(element);
        for (std::int64_t begin = 0; begin <= size; ++begin)
            for (std::int64_t end = begin; end <= size; ++end) {
                std::int64_t next = begin;
                for (const ZigzagRun& run : zigzag_runs({begin, end}, size, ranks)) {
                    EXPECT_EQ(run.places.begin, next);
                    for (; next < run.places.end; ++next)
                        EXPECT_EQ(run.first + next - run.places.begin, at[static_cast<std::size_t>(next)]);
                }
                EXPECT_EQ(next, end);
            }
    }
}

TEST(Zigzag, QueriesSeeEachKeyOnceAndNoneThatIsMasked) {
    std::vector<std::int64_t> work;
    for (const int ranks : {1, 2, 3, 4})
        for (const bool causal : {false, true}) {
            const std::int64_t size = 2 * ranks * 3;
            const std::vector<int> counts = seen(size, ranks, causal, work);
            for (std::int64_t query = 0; query < size; ++query)
                for (std::int64_t key = 0; key < size; ++key)
                    EXPECT_EQ(counts[static_cast<std::size_t>(query * size + key)], !causal || key <= query ? 1 : 0)
                        << ranks << " ranks, query " << query << ", key " << key;
        }
}

// To the last score; runs of the sequence in order would give the last of 4 ranks seven times the work of the first.
TEST(Zigzag, CausalWorkIsEqualOnAllRanks) {
    std::vector<std::int64_t> work;
    for (const int ranks : {2, 3, 4, 8}) {
        seen(static_cast<std::int64_t>(2 * ranks * 8), ranks, true, work);
        EXPECT_EQ(std::ranges::max(work), std::ranges::min(work)) << ranks << " ranks";
    }
}
