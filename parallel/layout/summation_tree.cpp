// SPDX-License-Identifier: Apache-2.0
// Deals the subtrees of the fixed tree to ranks, and lists the merges above them.
#include "parallel/layout/summation_tree.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <bit>
#include <fmt/format.h>

namespace tessera {
namespace {

// Where a subtree of at least two leaves divides.
std::int64_t middle(Range range) {
    const auto below = static_cast<std::uint64_t>(range.size() - 1);
    return range.begin + static_cast<std::int64_t>(std::bit_floor(below));
}

} // namespace

SummationTree::SummationTree(std::int64_t leaves, int ranks) : leaves_(leaves) {
    if (leaves < 1 || ranks < 1)
        throw InternalError(fmt::format("a summation tree of {} leaves on {} ranks", leaves, ranks));
    if (ranks > leaves)
        throw ConfigError(
            fmt::format("a step has {} micro-batches, which cannot feed {} ranks: use a larger batch, smaller "
                        "micro-batches, or at most {} ranks on the data axis",
                        leaves, ranks, leaves));
    shares_.reserve(static_cast<std::size_t>(ranks));
    shares_.push_back({0, leaves});
    while (shares_.size() < static_cast<std::size_t>(ranks)) {
        const auto largest =
            std::max_element(shares_.begin(), shares_.end(), [](Range a, Range b) { return a.size() < b.size(); });
        const Range right{middle(*largest), largest->end};
        largest->end = right.begin;
        shares_.insert(largest + 1, right);
    }
    merges_after_.resize(shares_.size());
    merge({0, leaves});
}

int SummationTree::merge(Range range) {
    const auto share = std::lower_bound(shares_.begin(), shares_.end(), range.begin,
                                        [](Range a, std::int64_t begin) { return a.begin < begin; });
    if (*share == range) return static_cast<int>(share - shares_.begin());
    const std::int64_t split = middle(range);
    const int into = merge({range.begin, split});
    const int from = merge({split, range.end});
    merges_.push_back({into, from});
    const auto after = std::upper_bound(shares_.begin(), shares_.end(), range.end - 1,
                                        [](std::int64_t leaf, Range other) { return leaf < other.end; });
    ++merges_after_[static_cast<std::size_t>(after - shares_.begin())];
    return into;
}

bool SummationTree::even() const {
    return std::all_of(shares_.begin(), shares_.end(), [&](Range share) { return share.size() == shares_[0].size(); });
}

int slots_needed(std::int64_t leaves) {
    if (leaves < 1) throw InternalError(fmt::format("a sum of {} leaves", leaves));
    return static_cast<int>(std::bit_width(static_cast<std::uint64_t>(leaves)));
}

} // namespace tessera
