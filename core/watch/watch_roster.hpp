// SPDX-License-Identifier: Apache-2.0
// Who watches whom: every rank's process, host and where its watchdog listens, exchanged over MPI while it works.
#pragma once

#include "core/watch/job_folder.hpp"
#include "core/watch/watch_socket.hpp"
#include "parallel/communication/world.hpp"

#include <memory>
#include <vector>

namespace tessera {

struct WatchedRank {
    RankPlace place;
    std::uint64_t started = 0; // process_state.hpp
    int host = 0;              // the lowest rank on the same host
    int on_host = 0;           // which of its ranks it is, as FlightRecorder counts them
    WatchAddress address;
};

struct WatchRoster {
    WatchToken token{};
    std::vector<WatchedRank> ranks; // by rank
    std::unique_ptr<WatchListener> listener;
};

// Collective over the world; `neighbours`: its ranks on this host. Each rank listens on the loopback interface where
// all are on one host, otherwise on the interface that leads to the other hosts. SystemError on every rank where one
// cannot listen.
WatchRoster meet(const World& world, const ProcessGroup& neighbours);

} // namespace tessera
