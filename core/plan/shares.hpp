// SPDX-License-Identifier: Apache-2.0
// Which micro-batches of a step each data rank takes. Places count the ranks of one replica behind those of the other.
#pragma once

#include "core/plan/plan.hpp"

namespace tessera {

// Of a replica: a whole subtree of the summation tree, so that sizes may differ by a factor of two; as even as can be
// where the layout promises no order of sums. Where there are too few micro-batches the last replicas, and the last
// ranks of a replica, get none.
Range share_of_replica(const Layout& layout, int replica);
// Of the rank at this place: likewise, of its replica's. Where the layout sums in rounds (Plan::stride) it begins with
// the first of them, and the number is what counts.
Range share_of(const Layout& layout, int place);

// In which order the sums of a replica's ranks are added, and then those of the replicas.
SummationTree tree_of_replica(const Layout& layout, int replica);
SummationTree tree_of_replicas(const Layout& layout);

int data_place(const Layout& layout, const std::vector<int>& coordinate);
// The coordinate with another place.
std::vector<int> at_data_place(const Layout& layout, std::vector<int> coordinate, int place);

struct ShareSizes {
    std::int64_t least, most;
};
ShareSizes share_sizes(const Layout& layout);

// The place with the most micro-batches, for which the others wait: the first of them.
int busiest_place(const Layout& layout);

} // namespace tessera
