// SPDX-License-Identifier: Apache-2.0
// The loss on the validation split: the same windows, in the same order, whatever the number of ranks, as long as
// training.local_batch_size says the rows of a micro-batch (they follow from the number of ranks otherwise).
#pragma once

#include "core/data/loader.hpp"
#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"
#include "core/run/ground.hpp"
#include "core/run/metrics.hpp"

namespace tessera {

inline constexpr Key<std::int64_t> evaluate_every{
    "metrics.evaluate_every", 250, "steps between evaluations on the validation split; 0: at the end only"};

class Evaluation {
public:
    // All arguments must outlive it. `memory` is shared with training: they take turns.
    Evaluation(const Ground& ground, const Experiment& experiment, const Memory& memory);

    // Reads the key above. Throws ConfigError for a wrong value.
    static void check_keys(const Config& config);

    // Never without a validation split.
    bool due(std::int64_t steps_done, bool last) const;
    EvaluationRecord run(std::int64_t steps_done); // called by all ranks together
    std::int64_t allocated_bytes() const;          // of the loader that run() makes

private:
    Ground ground_;
    const Experiment& experiment_;
    std::unique_ptr<Executor> executor_; // null without a validation split
    std::int64_t every_;
};

} // namespace tessera
