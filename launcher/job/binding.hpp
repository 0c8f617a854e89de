// SPDX-License-Identifier: Apache-2.0
// Which cores of a host each of its ranks gets: cores of its own, of one NUMA node, and of that next to its GPU. Pure.
// Open MPI's own choice binds one or two ranks to a single core each, however many threads they have, and leaves three
// or more unbound; given a number of cores it lets ranks lie across NUMA nodes.
#pragma once

#include "launcher/job/host_shape.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

struct RankBinding {
    std::vector<int> cores; // empty: any; by their numbers in the system
    std::vector<int> nodes; // NUMA nodes of those cores
    int gpu = -1;           // of the host's list (HostShape); -1: none
};

// The most threads that each of `ranks` ranks may have, so that all have cores of their own, and none cores of two NUMA
// nodes, unless there are fewer ranks than nodes. At least 1.
std::int64_t threads_that_fit(std::int64_t ranks, const HostShape& host);

// Whether there are cores enough for ranks of so many threads.
bool cores_suffice(std::int64_t ranks, std::int64_t threads, const HostShape& host);

// A place for each rank of a host, in their order. Neighbours lie side by side. Rank i has GPU i, where there are
// enough, and then cores of the node nearest to it as far as they go. Where no node has room for a rank it lies across
// several; where cores do not suffice, no rank is bound.
std::vector<RankBinding> place_ranks(std::int64_t ranks, std::int64_t threads, const HostShape& host);

// "cores 0-3 of NUMA node 0, GPU 0 (0000:3b:00.0)"
std::string text_of(const RankBinding& place, const HostShape& host);

} // namespace tessera
