// SPDX-License-Identifier: Apache-2.0
// The loss on the validation split: the same windows, in the same order, whatever the number of ranks.
#pragma once

#include "core/data/loader.hpp"
#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"
#include "core/run/ground.hpp"
#include "core/run/metrics.hpp"

namespace tessera {

class Evaluation {
public:
    // All arguments must outlive it. `memory` is shared with training: they take turns.
    Evaluation(const Ground& ground, const Experiment& experiment, const Memory& memory);

    EvaluationRecord run(std::int64_t steps_done); // called by all ranks together
    std::int64_t allocated_bytes() const;          // of the loader that run() makes

private:
    Ground ground_;
    const Experiment& experiment_;
    std::unique_ptr<Executor> executor_; // null without a validation split
    std::vector<View> inputs_;
};

} // namespace tessera
