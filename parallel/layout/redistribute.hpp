// SPDX-License-Identifier: Apache-2.0
// The one collective that leads from where a tensor is to where it is wanted, on one axis of the mesh, and its traffic.
#pragma once

#include "parallel/layout/placement.hpp"

#include <cstdint>
#include <string_view>

namespace tessera {

// `slice` is local: a rank keeps its part of what it holds whole. `send` leads from one rank to another. `ring` and
// `halo` are no redistributions, but what an op does in its middle: parts travel from rank to rank until all have seen
// all, or what lies at the edges of parts goes to the ranks whose windows see it (layout/halo.hpp).
enum class Collective { none, all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, slice, ring, halo, send };

std::string_view name_of(Collective collective);

// Whether an op does it in its middle, beside work of its own.
inline bool is_within_op(Collective collective) {
    return collective == Collective::ring || collective == Collective::halo;
}

// Throws InternalError where no single collective leads from one to the other.
Collective redistribution(Placement from, Placement to);

// Bytes that a rank has to send (the mean over the ranks; of `send`, the rank that does) at the theoretical lower
// bound, for a tensor of `whole_bytes`; of `halo`, those bytes are what it sends. No algorithm sends less; the
// communicators' own counts are tested against it.
std::int64_t bytes_sent(Collective collective, std::int64_t whole_bytes, int ranks);

} // namespace tessera
