// SPDX-License-Identifier: Apache-2.0
// What a run goes back to where the guard says so: a copy of its state in memory, or a checkpoint.
#pragma once

#include "core/run/saver.hpp"
#include "core/run/state_copy.hpp"

#include <optional>

namespace tessera {

inline constexpr Key<std::int64_t> snapshot_interval{
    "guard.snapshot_interval", 0,
    "steps between copies of the state in the host's memory, which rollback goes back to as to checkpoints; 0: none"};

class Rollback {
public:
    // All arguments outlive this. SystemError where a rank has no memory for a copy.
    Rollback(const Ground& ground, const Experiment& experiment, const Executor& executor, Saver& saver, Log& log,
             const std::filesystem::path& run_folder);

    // Reads the key above. Throws ConfigError for a wrong value, and where nothing would go back to a copy.
    static void check_keys(const Config& config);
    // Bytes of host memory that the run keeps for it.
    static std::int64_t bytes_for(const Config& config, const Program& program);

    std::int64_t allocated_bytes() const { return copy_ ? copy_->bytes() : 0; }

    // Whether the state after so many steps, 0 included, is to be copied: where a checkpoint of this step would be.
    bool due(std::int64_t steps_done) const { return copy_ && steps_done % copy_interval_ == 0; }
    // `also`: what a checkpoint of the step would say (Saver::save).
    void keep(std::int64_t steps_done, std::map<std::string, std::string> also);

    // Before a run stops that will be resumed: saves the copy, too, where going back would take it, so that the resumed
    // run goes back to where this one would have. Called by all ranks together.
    void save_copy(std::int64_t steps_done);

    // Puts back the newest of the copy and the checkpoints of either interval (where there is none, of any checkpoint),
    // so that it does not matter whether the run was stopped and saved in between. Leaves out what has been trained
    // since: the batches up to now do not come again, nor do those steps count as updates. Called by all ranks
    // together. Where it went; DivergedError, which ends with `reason`, where there is nothing.
    RollbackRecord go_back(std::int64_t steps_done, const std::string& reason);

private:
    std::string path_of(std::int64_t step) const;
    std::string newest_of_intervals(std::int64_t before) const;
    std::string checkpoint_before(std::int64_t step) const;

    Ground ground_;
    const Experiment& experiment_;
    const Executor& executor_;
    Saver& saver_;
    Log& log_;
    Team team_;
    std::string folder_;
    std::int64_t interval_, copy_interval_;
    std::optional<StateCopy> copy_;
    std::int64_t copied_step_ = -1; // -1: nothing is copied yet
    std::map<std::string, std::string> copied_also_;
};

} // namespace tessera
