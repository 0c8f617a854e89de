// SPDX-License-Identifier: Apache-2.0
// What the kernel says of another process on this host.
#pragma once

#include <cstdint>

namespace tessera {

struct ProcessState {
    char state = 'X'; // R running, S sleeping, D in a disk wait, T stopped, t traced, Z dead and not taken, X gone
    std::uint64_t started = 0; // ticks since the host started: tells apart processes of one number
};

// Gone where there is no process of that number.
ProcessState process_state(std::int64_t pid);

} // namespace tessera
