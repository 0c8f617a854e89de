// SPDX-License-Identifier: Apache-2.0
// When a run saves, what it saves, and how it starts again.
#pragma once

#include "core/log.hpp"
#include "core/run/ground.hpp"
#include "core/run/weights.hpp"

#include <filesystem>

namespace tessera {

inline constexpr Key<std::int64_t> checkpoint_interval{
    "checkpoint.interval", 500, "steps between checkpoints; 0: at the end only; -1: only when asked to stop"};
inline constexpr Key<std::int64_t> checkpoint_keep{"checkpoint.keep_latest_k", 2,
                                                   "newest checkpoints to keep; 0: all of them"};
inline constexpr Key<std::string> checkpoint_resume{
    "checkpoint.resume", "auto", "auto (the newest of this run's folder, if any), never, or the path of a checkpoint"};

class Saver {
public:
    Saver(const Ground& ground, const Experiment& experiment, const Executor& executor, Log& log,
          const std::filesystem::path& run_folder);

    // Reads the keys above. Throws ConfigError for a wrong value.
    static void check_keys(const Config& config);
    // Throws ConfigError unless the checkpoint that checkpoint.resume names, if it names one, opens.
    static void check_start(const Config& config);

    // Starts the weights, or reads them from a checkpoint; returns the number of steps done. Checkpoints of later steps
    // in the run's folder are set aside. Called by all ranks.
    std::int64_t start_or_resume();

    bool due(std::int64_t steps_done, bool last) const;
    void save(std::int64_t steps_done); // called by all ranks together

    // Takes weights and states of the newest checkpoint of the interval (where there is none, of any), so that it does
    // not matter whether the run was stopped and saved in between. Leaves out what has been trained since: the batches
    // up to now do not come again, nor do those steps count as updates. Called by all ranks together. SystemError,
    // which ends with `reason`, when there is no checkpoint.
    void roll_back(std::int64_t steps_done, const std::string& reason);

private:
    std::string newest() const;
    std::string newest_of_interval(std::int64_t steps_done) const;
    std::string checkpoint_to_resume() const;
    void restore(const Checkpoint& checkpoint);
    void set_aside_after(std::int64_t step);
    void check_same_experiment(const Checkpoint& checkpoint) const;

    Ground ground_;
    const Experiment& experiment_;
    const Executor& executor_;
    Log& log_;
    Team team_;
    std::string folder_;
    std::int64_t interval_;
    std::int64_t keep_;
};

} // namespace tessera
