// SPDX-License-Identifier: Apache-2.0
// The mean over the targets that count, in nodes of the update: how many count in a step of all ranks is only known
// when its last micro-batch has been seen. Until then gradients are of the sum over 1 / units of the step, which keeps
// their size; the update multiplies by units / counted. So the mean is over the whole global batch, to the last bit the
// same on any number of ranks, however unevenly micro-batches and ranks have targets.
#pragma once

#include "core/graph/graph.hpp"

namespace tessera {

struct CountedMean {
    ValueId ratio;      // units / counted; 0 where nothing counts: the step changes nothing
    ValueId loss;       // times ratio
    ValueId square_sum; // times ratio^2
};

// All scalars f32, finished sums over the step.
CountedMean append_counted_mean(Graph& graph, ValueId counted, ValueId loss, ValueId square_sum,
                                std::int64_t units_per_step);
// Appends a * b, both scalars.
ValueId append_product(Graph& graph, std::string name, ValueId a, ValueId b);

} // namespace tessera
