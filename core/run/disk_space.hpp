// SPDX-License-Identifier: Apache-2.0
// Whether the checkpoints that a run is going to write will fit where they go.
#pragma once

#include "core/checkpoint/checkpoint.hpp"

#include <string>

namespace tessera {

struct ComingSaves {
    std::int64_t bytes = 0;    // of each
    std::int64_t interval = 0; // steps between two; 0: one, at the end
    std::int64_t done = 0;     // steps
    std::int64_t end = 0;      // of the run
    Retention retention;
    std::int64_t present = 0; // checkpoints that are there already
};

// How many more than are there now will be there at once at most: those the retention keeps, and the one under way.
std::int64_t most_at_once(const ComingSaves& saves);

// Bytes a user may still write at `path`, which need not exist yet; -1 where the system does not say.
std::int64_t free_at(const std::string& path);

} // namespace tessera
