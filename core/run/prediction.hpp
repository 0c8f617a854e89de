// SPDX-License-Identifier: Apache-2.0
// What a run will take, seen from all of its stages: a plan is one rank's.
#pragma once

#include "core/cost/step_cost.hpp"
#include "core/run/experiment.hpp"

#include <cstdint>
#include <vector>

namespace tessera {

struct Prediction {
    StepCost cost;
    std::int64_t memory = 0; // bytes of the rank of this view that needs most, of all stages
};

// Of a rank. On GPUs buffers for data are the host's and do not count.
std::int64_t memory_of(const Experiment& experiment, const Machine& machine);

// `experiment` is what the plans say of `rank`; the other stages of its pipeline are planned here, at the same place of
// all other axes. Stages between the first and the last with the same work are planned once. `beside`: see
// cost_of_rank.
Prediction predict(const Experiment& experiment, const TrainingPlans& plans, int rank, const Machine& machine,
                   const std::vector<int>& beside = {});

} // namespace tessera
