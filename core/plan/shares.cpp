// SPDX-License-Identifier: Apache-2.0
// Shares of the summation tree, or even ones.
#include "core/plan/shares.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {

namespace {

// Those without a micro-batch are the last, and bring nothing (-0, which changes no sum). With these, a tree of one
// leaf each adds in the order of the smaller tree: a leaf that comes later never changes which of the earlier ones are
// neighbours.
SummationTree tree_of(std::int64_t micro_batches, int sharers) {
    return {std::max<std::int64_t>(micro_batches, sharers), sharers};
}

Range share_in(const Range& whole, int sharers, int place, bool reproducible) {
    const Range part =
        reproducible ? tree_of(whole.size(), sharers).share(place) : shard_range(whole.size(), sharers, place);
    return {whole.begin + std::min(part.begin, whole.size()), whole.begin + std::min(part.end, whole.size())};
}

} // namespace

SummationTree tree_of_replicas(const Layout& layout) { return tree_of(layout.micro_batches, layout.replicas()); }

SummationTree tree_of_replica(const Layout& layout, int replica) {
    return tree_of(share_of_replica(layout, replica).size(), layout.shard_ranks());
}

Range share_of_replica(const Layout& layout, int replica) {
    if (layout.replicas() == 1) return {0, layout.micro_batches};
    return share_in({0, layout.micro_batches}, layout.replicas(), replica, layout.reproducible);
}

Range share_of(const Layout& layout, int place) {
    const int ranks = layout.shard_ranks();
    const Range whole = share_of_replica(layout, place / ranks);
    if (layout.rounds) return {whole.begin + place % ranks, whole.begin + place % ranks + whole.size() / ranks};
    return share_in(whole, ranks, place % ranks, layout.reproducible);
}

int data_place(const Layout& layout, const std::vector<int>& coordinate) {
    const int replica = layout.replica_axis < 0 ? 0 : coordinate[static_cast<std::size_t>(layout.replica_axis)];
    return replica * layout.shard_ranks() + coordinate[static_cast<std::size_t>(layout.data_axis)];
}

std::vector<int> at_data_place(const Layout& layout, std::vector<int> coordinate, int place) {
    const int ranks = layout.shard_ranks();
    coordinate[static_cast<std::size_t>(layout.data_axis)] = place % ranks;
    if (layout.replica_axis >= 0) coordinate[static_cast<std::size_t>(layout.replica_axis)] = place / ranks;
    return coordinate;
}

namespace {

// Of all places. A tree is made once for each replica: that takes as long as there are micro-batches.
std::vector<std::int64_t> sizes_of(const Layout& layout) {
    const int ranks = layout.shard_ranks();
    std::vector<std::int64_t> sizes;
    for (int replica = 0; replica < layout.replicas(); ++replica) {
        const std::int64_t whole = share_of_replica(layout, replica).size();
        const bool by_tree = layout.reproducible && !layout.rounds;
        const SummationTree tree = by_tree ? tree_of_replica(layout, replica) : SummationTree(1, 1);
        for (int place = 0; place < ranks; ++place) {
            const Range part = by_tree ? tree.share(place) : shard_range(whole, ranks, place);
            sizes.push_back(layout.rounds ? whole / ranks : std::min(part.end, whole) - std::min(part.begin, whole));
        }
    }
    return sizes;
}

} // namespace

ShareSizes share_sizes(const Layout& layout) {
    const std::vector<std::int64_t> sizes = sizes_of(layout);
    const auto [least, most] = std::ranges::minmax(sizes);
    return {least, most};
}

int busiest_place(const Layout& layout) {
    const std::vector<std::int64_t> sizes = sizes_of(layout);
    return static_cast<int>(std::ranges::max_element(sizes) - sizes.begin());
}

} // namespace tessera
