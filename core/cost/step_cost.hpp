// SPDX-License-Identifier: Apache-2.0
// How long a step takes on a machine, from the plan alone: a prediction by a roofline for each call (Williams et al.
// 2009) and alpha-beta costs of what the ranks send.
#pragma once

#include "core/cost/machine.hpp"
#include "core/plan/plan.hpp"
#include "parallel/layout/schedule.hpp"

#include <array>
#include <vector>

namespace tessera {

// Seconds of one run of a phase on one rank. A call takes what is longer: its operations at the speed of products (of
// attention), or the bytes of its operands at that of memory.
struct PhaseCost {
    double products = 0;
    double attention = 0;
    double elementwise = 0;        // all other calls
    std::vector<double> transfers; // collectives of the phase, by axis of the mesh

    double calls() const { return products + attention + elementwise; }
    double total() const;
};

// What one rank does in a step.
struct RankCost {
    std::array<PhaseCost, 4> phases;     // by Phase
    std::vector<ChunkTime> chunks;       // seconds of a micro-batch in forward and backward, by chunk of its stage
    MessageTime message;                 // of what a part sends to other stages, at most
    double merge = 0;                    // of all its micro-batches' gradients
    std::vector<double> exchanges;       // of sums owed over an axis, once a step, by axis
    std::vector<double> exchanges_after; // and what of them the work has to wait for
    double hidden = 0;                   // of all that goes on beside the work, in a step

    const PhaseCost& phase(Phase phase) const { return phases[static_cast<std::size_t>(phase)]; }
};

// Seconds of a step, which are the sum of what each member says but for `hidden`.
struct StepCost {
    double products = 0;
    double attention = 0;
    double elementwise = 0;      // norms, activations, sums of gradients
    double update = 0;           // optimizer and conversion of weights
    std::vector<double> waits;   // for collectives, by axis of the mesh
    double bubble = 0;           // without work
    double hidden = 0;           // collectives that go on beside the work
    double flops_per_second = 0; // of the model, on each rank; what is computed again does not count

    double total() const;
};

// `beside`: axes whose collectives would go on beside the work of their phase, and the gathering of weights beside the
// first forward pass. This program's executor lets sums of gradients over the data ranks do so, and weights that are
// gathered ahead (Call::ahead_of); others have more (Megatron-LM's --tp-comm-overlap and --overlap-param-gather).
RankCost cost_of_rank(const Plan& plan, const Layout& layout, const Machine& machine,
                      const std::vector<int>& beside = {});

// Seconds of each call of a phase, one of its runs, with its collective: what cost_of_rank adds up.
std::vector<double> seconds_of_calls(const Plan& plan, const Layout& layout, const Machine& machine, Phase phase);

// A step from the costs of one rank of each stage. The stages wait for each other as the schedule has it, when what
// they send travels beside their work. The parts are those of the stage that works longest; `bubble` is what it waits
// for the others. `plan`: of any rank; the largest share of the micro-batches counts.
StepCost cost_of(const std::vector<RankCost>& stages, const Plan& plan, const Layout& layout);

// Of a layout without a pipeline. Throws ConfigError where the machine says nothing of links that the layout needs.
StepCost cost_of(const Plan& plan, const Layout& layout, const Machine& machine, const std::vector<int>& beside = {});

} // namespace tessera
