// SPDX-License-Identifier: Apache-2.0
// Plans the stages that are not alike.
#include "core/run/prediction.hpp"

#include <algorithm>

namespace tessera {
namespace {

bool same_work(const Plan& plan, const Layout& layout, int one, int other) {
    for (int chunk = 0; chunk < layout.chunks_per_stage; ++chunk) {
        const auto first = static_cast<std::size_t>(chunk * layout.stages());
        const ChunkTime& a = plan.chunk_flops[first + static_cast<std::size_t>(one)];
        const ChunkTime& b = plan.chunk_flops[first + static_cast<std::size_t>(other)];
        if (a.forward != b.forward || a.backward != b.backward || a.weights != b.weights) return false;
    }
    return true;
}

// The stage to plan in place of this one. Of several the first: it keeps most micro-batches. The ends of the pipeline
// have what stands before and behind the layers.
int stage_for(int stage, const Plan& plan, const Layout& layout) {
    if (stage == 0 || stage + 1 == layout.stages()) return stage;
    int first = 1;
    while (!same_work(plan, layout, first, stage))
        ++first;
    return first;
}

} // namespace

std::int64_t memory_of(const Experiment& experiment, const Machine& machine) {
    return machine.gpu ? experiment.memory.where_the_stream_works() : experiment.memory.total();
}

Prediction predict(const Experiment& experiment, const TrainingPlans& plans, int rank, const Machine& machine,
                   const std::vector<int>& beside) {
    const Plan& plan = experiment.train.plan;
    const Layout& layout = experiment.train.layout;
    const RankCost own = cost_of_rank(plan, layout, machine, beside);
    Prediction prediction{{}, memory_of(experiment, machine)};
    std::vector<int> coordinate = layout.mesh.coordinate(rank);
    const auto axis = static_cast<std::size_t>(std::max(layout.pipeline_axis, 0));
    const int here = layout.stages() == 1 ? 0 : coordinate[axis];
    std::vector<RankCost> stages;
    for (int stage = 0; stage < layout.stages(); ++stage) {
        const int other = stage_for(stage, plan, layout);
        if (other < stage) {
            stages.push_back(stages[static_cast<std::size_t>(other)]);
        } else if (stage == here) {
            stages.push_back(own);
        } else {
            coordinate[axis] = stage;
            const Experiment planned = plans.of(layout.mesh.rank(coordinate));
            stages.push_back(cost_of_rank(planned.train.plan, layout, machine, beside));
            prediction.memory = std::max(prediction.memory, memory_of(planned, machine));
        }
    }
    prediction.cost = cost_of(stages, plan, layout);
    return prediction;
}

} // namespace tessera
