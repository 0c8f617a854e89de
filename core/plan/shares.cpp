// SPDX-License-Identifier: Apache-2.0
// Shares of the summation tree, or even ones.
#include "core/plan/shares.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {

SummationTree tree_of_replicas(const Layout& layout) { return {layout.micro_batches, layout.replicas()}; }

SummationTree tree_of_replica(const Layout& layout, int replica) {
    return {share_of_replica(layout, replica).size(), layout.shard_ranks()};
}

Range share_of_replica(const Layout& layout, int replica) {
    if (layout.replicas() == 1) return {0, layout.micro_batches};
    const Range share = layout.reproducible ? tree_of_replicas(layout).share(replica)
                                            : shard_range(layout.micro_batches, layout.replicas(), replica);
    if (share.size() < layout.shard_ranks())
        throw ConfigError(fmt::format("{} micro-batches are shared out to {} replicas (parallelism.data_parallel_"
                                      "replicate_degree), of which one gets {} for its {} ranks: take a larger batch, "
                                      "or a power of two of micro-batches (of an evaluation: metrics.evaluate_batches)",
                                      layout.micro_batches, layout.replicas(), share.size(), layout.shard_ranks()));
    return share;
}

Range share_of(const Layout& layout, int place) {
    const int ranks = layout.shard_ranks();
    const Range whole = share_of_replica(layout, place / ranks);
    if (layout.rounds) return {whole.begin + place % ranks, whole.begin + place % ranks + whole.size() / ranks};
    const Range part = layout.reproducible ? SummationTree(whole.size(), ranks).share(place % ranks)
                                           : shard_range(whole.size(), ranks, place % ranks);
    return {whole.begin + part.begin, whole.begin + part.end};
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
        for (int place = 0; place < ranks; ++place)
            sizes.push_back(layout.rounds ? whole / ranks
                            : by_tree     ? tree.share(place).size()
                                          : shard_range(whole, ranks, place).size());
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
