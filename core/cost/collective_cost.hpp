// SPDX-License-Identifier: Apache-2.0
// How long collectives take, by the alpha-beta model (Hockney 1994; the ring formulas: Chan et al. 2007).
#pragma once

#include "core/cost/machine.hpp"
#include "parallel/layout/mesh.hpp"

#include <cstdint>

namespace tessera {

// How the ranks of one mesh axis lie on the nodes: node k has the ranks from k * ranks_per_node on.
struct AxisPlace {
    int ranks = 1;    // of the axis
    int per_node = 1; // of them on one node, at most

    bool on_one_node() const { return per_node == ranks; }
};

// Of the group that `rank` belongs to.
AxisPlace place_of(const Mesh& mesh, int axis, int rank, int ranks_per_node);

// Seconds of a collective on a tensor of `whole_bytes` (as in bytes_sent of layout/redistribute.hpp), n bytes on p
// ranks:
//   all_gather, reduce_scatter, broadcast   (p-1) alpha + (p-1)/p n / beta      all_reduce   twice that
//   all_to_all                              (p-1) alpha + (p-1)/p^2 n / beta
//   halo, n being what a rank sends         min(2, p-1) alpha + n / beta
// A ring over several nodes goes at the pace of its slowest part: the group's ranks on a node share what leaves it.
// Throws ConfigError where the machine says nothing of links that the axis needs.
double seconds_of(Collective collective, std::int64_t whole_bytes, const AxisPlace& place, const Machine& machine);

// Of one message between neighbours on the axis.
double seconds_of_send(std::int64_t bytes, const AxisPlace& place, const Machine& machine);

} // namespace tessera
