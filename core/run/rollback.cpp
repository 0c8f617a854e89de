// SPDX-License-Identifier: Apache-2.0
// Rank 0 looks at the folder and all ranks take its word; each has all of its own state in its copy.
#include "core/run/rollback.hpp"

#include "core/optimizers/guard.hpp"
#include "core/run/diverged_error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <utility>

namespace tessera {

Rollback::Rollback(const Ground& ground, const Experiment& experiment, const Executor& executor, Saver& saver, Log& log,
                   const std::filesystem::path& run_folder)
    : ground_(ground), experiment_(experiment), executor_(executor), saver_(saver), log_(log),
      team_(team_of(ground.groups.all(), ground.host)), folder_((run_folder / "checkpoints").string()),
      interval_(ground.config.get(checkpoint_interval)), copy_interval_(ground.config.get(snapshot_interval)) {
    if (copy_interval_ > 0) copy_.emplace(experiment.train, executor);
}

void Rollback::check_keys(const Config& config) {
    const std::int64_t steps = config.get(snapshot_interval);
    if (steps < 0) config.refuse(snapshot_interval.name, "must be at least 0");
    if (steps > 0 && config.get(guard_policy) != "rollback")
        config.refuse(snapshot_interval.name, "only guard.policy = \"rollback\" goes back to copies");
}

std::int64_t Rollback::bytes_for(const Config& config, const Program& program) {
    return config.get(snapshot_interval) > 0 ? StateCopy::bytes_for(program) : 0;
}

void Rollback::keep(std::int64_t steps_done, std::map<std::string, std::string> also) {
    const FlightRecorder::Scope saving(ground_.groups.recorder(), Activity::saving);
    copy_->take();
    copied_step_ = steps_done;
    copied_also_ = std::move(also);
}

std::string Rollback::path_of(std::int64_t step) const { return fmt::format("{}/step-{:08d}", folder_, step); }

void Rollback::save_copy(std::int64_t steps_done) {
    if (copied_step_ < 0 || copied_step_ == steps_done) return;
    const bool needed = team_.rank != 0 || (newest_of_intervals(steps_done + 1).empty() &&
                                            !std::filesystem::exists(path_of(copied_step_)));
    if (!team_.all(needed)) return;
    try { // on all ranks alike; the checkpoint to resume from is there
        saver_.save_copy(copied_step_, copied_also_, [&](ValueId id) { return copy_->view(id); });
    } catch (const SystemError& error) {
        if (team_.rank == 0)
            log_.warning(fmt::format("not saved is what this run would roll back to, so that a resumed one may go back "
                                     "further: {}",
                                     error.what()));
    }
}

// Of the checkpoints behind the copy that open, below step `before`. For rank 0; "" where there is none.
std::string Rollback::newest_of_intervals(std::int64_t before) const {
    const auto counts = [&](std::int64_t step) {
        return (interval_ > 0 && step % interval_ == 0) || (copy_interval_ > 0 && step % copy_interval_ == 0);
    };
    for (std::int64_t step = before - 1; step > copied_step_; --step)
        try {
            if (counts(step) && std::filesystem::exists(path_of(step))) return Checkpoint(path_of(step)).folder();
        } catch (const ConfigError& error) {
            log_.warning(fmt::format("not rolled back to: {}", error.what()));
        }
    return "";
}

// What to read, the same on all ranks; "": the copy, or nothing where there is none.
std::string Rollback::checkpoint_before(std::int64_t step) const {
    std::string path;
    if (team_.rank == 0) {
        path = newest_of_intervals(step);
        std::vector<std::string> skipped;
        if (path.empty() && copied_step_ < 0) path = newest_checkpoint(folder_, &skipped, step);
        for (const std::string& one : skipped)
            log_.warning("not rolled back to: " + one);
    }
    return team_.broadcast(path);
}

RollbackRecord Rollback::go_back(std::int64_t steps_done, const std::string& reason) {
    saver_.finish();
    RollbackRecord record{.step = steps_done, .to = steps_done + 1, .from = {}};
    std::string damage = "-";
    while (!damage.empty()) {
        record.from = checkpoint_before(record.to);
        if (record.from.empty()) break;
        const Checkpoint checkpoint(record.from);
        record.to = checkpoint.step();
        damage = saver_.restore(checkpoint);
        if (!damage.empty() && team_.rank == 0) log_.warning("not rolled back to: " + damage);
    }
    if (record.from.empty() && copied_step_ < 0)
        throw DivergedError(fmt::format("no checkpoint to roll back to after step {}: {}", steps_done, reason));
    if (record.from.empty()) {
        copy_->put_back();
        record.to = copied_step_;
        record.from = "memory";
    }
    HostCopy given_up(executor_.stream(), executor_.view(experiment_.guard->skipped_steps));
    given_up.load();
    *given_up.view().as<float>() += static_cast<float>(steps_done - record.to);
    given_up.store();
    if (team_.rank == 0)
        log_.warning(fmt::format("rolled back to the weights of {}; steps given up: {} to {}, whose batches do not "
                                 "come again",
                                 record.from == "memory" ? fmt::format("step {}, in memory", record.to) : record.from,
                                 record.to + 1, steps_done));
    return record;
}

} // namespace tessera
