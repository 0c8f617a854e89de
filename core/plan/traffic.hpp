// SPDX-License-Identifier: Apache-2.0
// What the ranks of an axis send to each other in a step, from the plan alone.
#pragma once

#include "core/plan/plan.hpp"

#include <vector>

namespace tessera {

// The collectives of one kind, on one axis, that the ops of a phase need; or what a stage of a pipeline sends to
// others.
struct Transfers {
    Phase phase = Phase::forward;
    int axis = 0;
    Collective collective = Collective::none;
    std::int64_t calls = 0;      // each time that the phase runs
    std::int64_t runs = 1;       // of the phase in a step
    std::int64_t bytes_sent = 0; // by each rank in a step, as bytes_sent() of layout/redistribute.hpp has it
};

// By axis, then in the order of the phases. What moves nothing between ranks is left out.
std::vector<Transfers> transfers_of(const Plan& plan, const Layout& layout);

std::int64_t bytes_sent(const Exchange& exchange, const Plan& plan, const Layout& layout);

// Of what a node that transfers leads elsewhere: the tensor that the ranks of its axis hold together, whatever other
// axes have cut off it.
std::int64_t whole_bytes(const Node& node, const Op::Transfer& transfer, const Plan& plan, const Layout& layout);

// In a step, by each rank: all transfers and exchanges on an axis.
std::int64_t bytes_sent_over(int axis, const Plan& plan, const Layout& layout);

} // namespace tessera
