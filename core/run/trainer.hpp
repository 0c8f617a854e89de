// SPDX-License-Identifier: Apache-2.0
// The training loop. Features are graph nodes, metrics or files of their own; this stays one page.
#pragma once

#include "core/data/loader.hpp"
#include "core/run/evaluation.hpp"
#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"
#include "core/run/metrics.hpp"
#include "core/run/saver.hpp"
#include "core/run/throughput.hpp"
#include "core/optimizers/schedule.hpp"

#include <filesystem>

namespace tessera {

inline constexpr Key<std::int64_t> evaluate_every{"metrics.evaluate_every", 250,
                                                  "steps between evaluations on the validation split; 0: at the end only"};

class Trainer {
public:
    // Allocates the planned memory and starts or resumes (checkpoint.resume). `folder` is the run's. Called by all ranks
    // together; all arguments outlive the trainer.
    Trainer(const Ground& ground, const Experiment& experiment, Log& log, const std::filesystem::path& folder);

    // Runs the steps that are left. Throws SystemError when the loss is no longer finite.
    void train();

    const MemoryNeed& allocated() const { return allocated_; }
    std::int64_t first_step() const { return first_step_; }

private:
    void train_step(std::int64_t step);
    void record_step(std::int64_t step, double rate);
    void evaluate(std::int64_t steps_done);

    const Experiment& experiment_;
    Memory memory_;
    Executor executor_;
    Evaluation evaluation_;
    Saver saver_;
    Schedule schedule_;
    std::int64_t first_step_; // 0, or where the checkpoint left off
    std::unique_ptr<Metrics> metrics_; // rank 0 only
    Loader loader_;
    Throughput throughput_;
    MemoryNeed allocated_;
    std::vector<View> inputs_; // tokens and targets of a micro-batch
    std::int64_t evaluate_every_;
};

} // namespace tessera
