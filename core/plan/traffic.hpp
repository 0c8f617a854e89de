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

// What a node moves over an axis, as bytes_sent() of layout/redistribute.hpp takes it: the bytes of the tensor that the
// ranks of the axis hold together, whatever other axes have cut off it; of halos what the rank at `coordinate` sends.
struct Moved {
    Op::Transfer transfer;
    std::int64_t bytes = 0; // 0: it moves between other stages
};
// None where it moves nothing between ranks; an op that fetches halos may do so over two axes.
std::vector<Moved> moved_by(const Node& node, const Plan& plan, const Layout& layout,
                            const std::vector<int>& coordinate);

// In a step, by each rank: all transfers and exchanges on an axis.
std::int64_t bytes_sent_over(int axis, const Plan& plan, const Layout& layout);

} // namespace tessera
