// SPDX-License-Identifier: Apache-2.0
// When a run saves, what it saves, and how it starts again.
#pragma once

#include "core/checkpoint/checkpoint_writer.hpp"
#include "core/log.hpp"
#include "core/run/ground.hpp"
#include "core/run/metrics.hpp"
#include "core/run/snapshot.hpp"
#include "core/run/weights.hpp"

#include <chrono>
#include <filesystem>

namespace tessera {

inline constexpr Key<std::vector<std::string>> checkpoint_allow_changes{
    "checkpoint.allow_changes", "", "keys of model, data and seed that may differ from those of a resumed checkpoint"};
inline constexpr Key<std::int64_t> checkpoint_keep{"checkpoint.keep_latest_k", 2,
                                                   "newest checkpoints to keep; 0: all of them"};
inline constexpr Key<std::int64_t> checkpoint_keep_every{
    "checkpoint.keep_every", 0, "steps: checkpoints of multiples of it are kept beside the newest; 0: none"};
inline constexpr Key<std::string> checkpoint_on_error{
    "checkpoint.on_error", "stop",
    "when a checkpoint cannot be saved: stop, or continue (always stops: the last one, and one between batch sizes)"};
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
    // in the run's folder are set aside. Called by all ranks. ConfigError where the disk has no room for a checkpoint.
    std::int64_t start_or_resume();
    // Of the checkpoint that the run has resumed from.
    const std::map<std::string, std::string>& metadata() const { return resumed_; }

    std::int64_t allocated_bytes() const { return snapshot_ == nullptr ? 0 : snapshot_->bytes(); }

    bool due(std::int64_t steps_done, bool last) const;

    // Called by all ranks together. Returns when training may go on: `last` (nothing follows) or where saving is not
    // asynchronous when the checkpoint is on disk, otherwise when it is copied. Waits for the save before it.
    // SystemError, on all ranks alike, when a save has failed, unless checkpoint.on_error says to go on. `also`:
    // metadata besides the saver's own.
    void save(std::int64_t steps_done, bool last, const std::map<std::string, std::string>& also = {});

    // Called by all ranks together after each step: takes a save under way as far as it has come, or with `wait` to its
    // end. The saves that have ended since the last call. Throws as save() does.
    std::vector<CheckpointRecord> settle(bool wait);

    // Saves a copy of the state after so many steps, views of which lie in the host's memory, and waits for it. Called
    // by all ranks together; SystemError, on all alike, when it has failed.
    void save_copy(std::int64_t step, const std::map<std::string, std::string>& also, const ViewOf& view_of);

    void finish(); // waits for the save under way, by all ranks together; throws as save() does

    // Reads weights and states; what of the checkpoint is damaged, on any rank, or "". Called by all ranks together.
    std::string restore(const Checkpoint& checkpoint) const;

private:
    using Clock = std::chrono::steady_clock;

    std::string newest_here(std::int64_t before, std::vector<std::string>& skipped) const;
    std::string checkpoint_to_resume(std::int64_t before, std::vector<std::string>& skipped) const;
    void set_aside_after(std::int64_t step);
    void check_same_experiment(const Checkpoint& checkpoint) const;
    void compare_config(const Checkpoint& checkpoint) const;
    bool may_change(std::string_view key) const;
    void tell_of_skipped_steps(const Checkpoint& checkpoint) const;
    void take_first_weights() const;
    void make_snapshot();
    void check_space(std::int64_t steps_done);
    void make_room(const CheckpointContent& content);
    CheckpointContent content_of(std::int64_t steps_done, const ViewOf& view_of);
    void write(CheckpointContent content, bool copied, bool beside, bool last);
    void go_on_after(const std::exception& failure, bool last);
    void take_further(bool wait, bool last);

    Ground ground_;
    const Experiment& experiment_;
    const Executor& executor_;
    Log& log_;
    Team team_;
    std::string folder_;
    std::int64_t interval_;
    bool stop_on_error_;
    bool asynchronous_;
    std::map<std::string, std::string> resumed_;
    std::map<std::string, std::string> metadata_; // what is the same in all checkpoints of the run
    std::unique_ptr<Snapshot> snapshot_;          // null: the memory itself is written, or a copy made for one save
    CheckpointRecord current_;
    Clock::time_point begun_{};
    std::vector<CheckpointRecord> ended_;
    CheckpointWriter writer_; // goes before what it reads
};

} // namespace tessera
