// SPDX-License-Identifier: Apache-2.0
// Which micro-batches of a step each rank of the data axis takes.
#pragma once

#include "core/plan/plan.hpp"

namespace tessera {

// Of the rank at this place of the data axis: a whole subtree of the summation tree, so that sizes may differ by a
// factor of two; as even as can be where the layout promises no order of sums. Where it sums in rounds (Plan::stride),
// this is the size only.
Range share_of(const Layout& layout, int place);

struct ShareSizes {
    std::int64_t least, most;
};
ShareSizes share_sizes(const Layout& layout);

// The place with the most micro-batches, for which the others wait: the first of them.
int busiest_place(const Layout& layout);

} // namespace tessera
