// SPDX-License-Identifier: Apache-2.0
// Shares of the summation tree, or even ones.
#include "core/plan/shares.hpp"

#include <algorithm>

namespace tessera {

Range share_of(const Layout& layout, int place) {
    if (layout.reproducible) return layout.tree().share(place);
    return shard_range(layout.micro_batches, layout.data_ranks(), place);
}

ShareSizes share_sizes(const Layout& layout) {
    ShareSizes sizes{layout.micro_batches, 0};
    const SummationTree tree = layout.tree(); // made once: it takes as long as there are micro-batches
    for (int place = 0; place < layout.data_ranks(); ++place) {
        const std::int64_t size = layout.reproducible ? tree.share(place).size() : share_of(layout, place).size();
        sizes = {std::min(sizes.least, size), std::max(sizes.most, size)};
    }
    return sizes;
}

int busiest_place(const Layout& layout) {
    int busiest = 0;
    for (int place = 1; place < layout.data_ranks(); ++place)
        if (share_of(layout, place).size() > share_of(layout, busiest).size()) busiest = place;
    return busiest;
}

} // namespace tessera
