// SPDX-License-Identifier: Apache-2.0
// The table of placements and collectives, and lower bounds of traffic.
#include "parallel/layout/redistribute.hpp"

#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera {

std::string_view name_of(Collective collective) {
    switch (collective) {
    case Collective::none:
        return "none";
    case Collective::all_reduce:
        return "all_reduce";
    case Collective::all_gather:
        return "all_gather";
    case Collective::reduce_scatter:
        return "reduce_scatter";
    case Collective::all_to_all:
        return "all_to_all";
    case Collective::broadcast:
        return "broadcast";
    case Collective::slice:
        return "slice";
    case Collective::send:
        return "send";
    case Collective::ring:
        return "ring";
    case Collective::halo:
        return "halo";
    }
    throw InternalError(fmt::format("collective number {}", static_cast<int>(collective)));
}

Collective redistribution(Placement from, Placement to) {
    using Kind = Placement::Kind;
    if (from == to) return Collective::none;
    if (from.kind == Kind::partial && to.kind == Kind::replicate) return Collective::all_reduce;
    const auto cut = [](Placement placement) { return placement.kind == Kind::shard || placement.kind == Kind::flat; };
    if (from.kind == Kind::partial && cut(to)) return Collective::reduce_scatter;
    if (cut(from) && to.kind == Kind::replicate) return Collective::all_gather;
    if (from.kind == Kind::shard && to.kind == Kind::shard) return Collective::all_to_all;
    if (from.kind == Kind::replicate && cut(to)) return Collective::slice;
    if (from.kind == Kind::replicate && to.kind == Kind::at) return Collective::none; // the stage holds it already
    if (from.kind == Kind::at && to.kind == Kind::replicate) return Collective::broadcast;
    throw InternalError(fmt::format("no single collective leads from {} to {}", from.text(), to.text()));
}

std::int64_t bytes_sent(Collective collective, std::int64_t whole_bytes, int ranks) {
    const std::int64_t once = whole_bytes / ranks * (ranks - 1) + whole_bytes % ranks * (ranks - 1) / ranks;
    switch (collective) {
    case Collective::none:
    case Collective::slice:
        return 0;
    case Collective::all_reduce:
        return 2 * once;
    case Collective::all_gather:
    case Collective::reduce_scatter:
    case Collective::broadcast:
    case Collective::ring:
        return once; // every other rank receives each byte once: (ranks - 1) / ranks on average
    case Collective::all_to_all:
        return once / ranks;
    case Collective::send:
    case Collective::halo:
        return whole_bytes;
    }
    throw InternalError(fmt::format("collective number {}", static_cast<int>(collective)));
}

} // namespace tessera
