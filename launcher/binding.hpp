// SPDX-License-Identifier: Apache-2.0
// Which cores of this host each rank gets. Open MPI's own choice binds one or two ranks to a single core each, however
// many threads they have, and leaves three or more unbound.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

// The cores that this process may use, by their numbers in the system (the first hardware thread of each), in the order
// in which Open MPI hands them out.
std::vector<int> usable_cores();

struct Binding {
    std::int64_t ranks = 1;
    std::int64_t threads = 1; // of each rank
    std::int64_t cores = 1;
    bool bound = true; // each rank has `threads` cores of its own

    // One line for people when ranks have to share cores; empty otherwise.
    std::string note() const;
};

// threads = 0: as many as leave every rank cores of its own, at least one.
Binding choose_binding(std::int64_t ranks, std::int64_t threads, std::int64_t cores);

} // namespace tessera
