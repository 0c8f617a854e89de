// SPDX-License-Identifier: Apache-2.0
// The ranks that prepare data together, as what they share out sees them.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace tessera {

struct Workers {
    int rank = 0;
    int ranks = 1;
    // Called by all together; what each gave, by rank.
    std::function<std::vector<std::string>(const std::string&)> gather = [](const std::string& own) {
        return std::vector{own};
    };

    // The items of `count` that are this rank's: shares lie in the order of the ranks.
    struct Share {
        std::size_t begin, end;
    };
    Share share_of(std::size_t count) const {
        const auto own = static_cast<std::size_t>(rank), all = static_cast<std::size_t>(ranks);
        return {count * own / all, count * (own + 1) / all};
    }
};

} // namespace tessera
