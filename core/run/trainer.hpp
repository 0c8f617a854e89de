// SPDX-License-Identifier: Apache-2.0
// The training loop. Features are graph nodes, metrics or files of their own; this stays one page.
#pragma once

#include "core/data/loader.hpp"
#include "core/optimizers/schedule.hpp"
#include "core/run/evaluation.hpp"
#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"
#include "core/run/metrics.hpp"
#include "core/run/replica_audit.hpp"
#include "core/run/rollback.hpp"
#include "core/run/saver.hpp"
#include "core/run/step_numbers.hpp"
#include "core/run/step_repeat.hpp"
#include "core/run/step_trace.hpp"
#include "core/run/stop_request.hpp"
#include "core/run/throughput.hpp"
#include "core/run/validation_watch.hpp"

#include <filesystem>

namespace tessera {

class Trainer {
public:
    // Reads every key of a run that planning has not read, and throws ConfigError for what is wrong: before anything is
    // written, on all ranks alike.
    static void check_keys(const Config& config, const Experiment& experiment);

    // Allocates the planned memory and starts or resumes (checkpoint.resume). `folder` is the run's. Called by all
    // ranks together; all arguments outlive the trainer.
    Trainer(const Ground& ground, const Experiment& experiment, StopRequest& stop, Log& log,
            const std::filesystem::path& folder);

    // Runs the steps that are left of the stage; false when a signal asked to stop before the last (after saving).
    // Throws DivergedError when training has diverged.
    bool train();
    // Whether the run goes on with another stage of its batch: its trainer resumes from what this one has saved.
    bool has_next_stage() const { return steps_done_ < experiment_.steps && !watch_.stops(); }

    // Logs where the time of the steps went, and who was slow, and what came from each of several sources. Called by
    // all ranks together.
    void report(Log& log);

    const MemoryNeed& allocated() const { return allocated_; }
    std::int64_t first_step() const { return first_step_; }

private:
    void train_step(std::int64_t step);
    void record_step(std::int64_t step, double rate, std::string fault);
    void read_numbers(StepRecord& record);
    void roll_back(const StepRecord& record);
    bool evaluate(std::int64_t steps_done); // whether training ends with it
    void save(std::int64_t steps_done, bool stop, bool last);
    void settle_saves(bool wait);

    Ground ground_;
    const Experiment& experiment_;
    Memory memory_;
    Executor executor_;
    Evaluation evaluation_;
    Saver saver_;
    Rollback rollback_;
    ReplicaAudit audit_;
    StepRepeat repeat_;
    Schedule schedule_;
    StopRequest& stop_;
    std::int64_t first_step_; // 0, or where the checkpoint left off
    std::int64_t steps_done_ = first_step_;
    StepNumbers numbers_;
    ValidationWatch watch_;
    std::unique_ptr<Metrics> metrics_; // rank 0 only
    Loader loader_;
    Throughput throughput_;
    StepTrace trace_;
    MemoryNeed allocated_;
};

} // namespace tessera
