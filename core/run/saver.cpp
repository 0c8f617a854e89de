// SPDX-License-Identifier: Apache-2.0
// Checkpoints of a run. Random numbers and the data's order are functions of seed and step, so these two are all the
// random state and data position there is.
#include "core/run/saver.hpp"

#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera {

Saver::Saver(const Ground& ground, const Experiment& experiment, const Executor& executor, Log& log,
             const std::filesystem::path& run_folder)
    : ground_(ground), experiment_(experiment), executor_(executor), log_(log),
      team_(team_of(ground.groups.all(), ground.host)), folder_((run_folder / "checkpoints").string()),
      interval_(ground.config.get(checkpoint_interval)), keep_(ground.config.get(checkpoint_keep)) {}

void Saver::check_keys(const Config& config) {
    if (config.get(checkpoint_interval) < -1) config.refuse(checkpoint_interval.name, "must be at least -1");
    if (config.get(checkpoint_keep) < 0) config.refuse(checkpoint_keep.name, "must be at least 0");
    if (config.get(checkpoint_resume).empty())
        config.refuse(checkpoint_resume.name, "expected auto, never or the path of a checkpoint");
}

void Saver::check_start(const Config& config) {
    const std::string resume = config.get(checkpoint_resume);
    if (resume != "auto" && resume != "never") Checkpoint{resume};
}

bool Saver::due(std::int64_t steps_done, bool last) const {
    if (interval_ < 0) return false;
    return last || (interval_ > 0 && steps_done % interval_ == 0);
}

void Saver::save(std::int64_t steps_done) {
    CheckpointContent content{.step = steps_done, .metadata = {}, .tensors = {}};
    if (team_.rank == 0) {
        const Tokenizer* tokenizer = ground_.dataset.tokenizer();
        content.metadata = {{"config", ground_.config.resolved()},
                            {"data.fingerprint", ground_.dataset.fingerprint()},
                            {"data.vocabulary", fmt::format("{}", ground_.dataset.form().classes)},
                            {"data.next_sample", fmt::format("{}", steps_done * experiment_.batch.global)},
                            {"mesh", experiment_.train.layout.mesh.text()},
                            {"seed", fmt::format("{}", experiment_.seed)}};
        if (tokenizer != nullptr) content.metadata["tokenizer"] = tokenizer->save();
    }
    const SavedState state = state_to_save(experiment_.train, executor_, team_.rank);
    content.tensors = state.parts;
    save_checkpoint(team_, folder_, content);
    if (team_.rank == 0 && keep_ > 0) remove_old_checkpoints(folder_, static_cast<int>(keep_));
    log_.info(fmt::format("saved {}/step-{:08d}", folder_, steps_done));
}

// Rank 0 looks, all ranks take its word: they must not disagree about a folder that changes under them.
std::string Saver::checkpoint_to_resume() const {
    const std::string resume = ground_.config.get(checkpoint_resume);
    if (resume == "never") return {};
    if (resume != "auto") return resume;
    std::string newest;
    if (team_.rank == 0) {
        std::vector<std::string> skipped;
        newest = newest_checkpoint(folder_, &skipped);
        for (const std::string& reason : skipped)
            log_.warning("not resumed from: " + reason);
        if (newest.empty() && !skipped.empty())
            throw ConfigError(fmt::format("{} holds checkpoints, but none that can be resumed: {}; set "
                                          "checkpoint.resume = \"never\" to start again",
                                          folder_, fmt::join(skipped, "; ")));
    }
    return team_.broadcast(newest);
}

// A run that goes on with another seed, batch or other data would be neither the old one nor a new one.
void Saver::check_same_experiment(const Checkpoint& checkpoint) const {
    const auto& metadata = checkpoint.metadata();
    const auto expect = [&](const std::string& name, const std::string& now, std::string_view key) {
        const auto found = metadata.find(name);
        if (found != metadata.end() && found->second != now)
            ground_.config.refuse(key, fmt::format("{} was saved with {} {}, this run has {}; change it back or set "
                                                   "checkpoint.resume = \"never\"",
                                                   checkpoint.folder(), name, found->second, now));
    };
    expect("seed", fmt::format("{}", experiment_.seed), "training.seed");
    expect("data.fingerprint", ground_.dataset.fingerprint(), "data.files");
    expect("data.next_sample", fmt::format("{}", checkpoint.step() * experiment_.batch.global),
           "training.global_batch_size"); // another batch would skip samples, or repeat them
}

void Saver::set_aside_after(std::int64_t step) {
    if (team_.rank != 0) return;
    for (const std::string& path : set_aside_checkpoints_after(folder_, step))
        log_.info(fmt::format("this run starts from step {}: a checkpoint of a later step is now {}", step, path));
}

std::int64_t Saver::start_or_resume() {
    const std::string path = checkpoint_to_resume();
    if (path.empty()) {
        initialize_weights(experiment_.train, executor_, experiment_.seed);
        initialize_states(experiment_.train, executor_);
        set_aside_after(0);
        return 0;
    }
    const Checkpoint checkpoint(path);
    check_same_experiment(checkpoint);
    restore_tensors(checkpoint, experiment_.train, executor_);
    if (checkpoint.step() >= experiment_.steps)
        log_.info(fmt::format("nothing is left to train: training.steps = {}", experiment_.steps));
    log_.info(fmt::format("resumed from {} at step {}, written by {} rank{}", path, checkpoint.step(),
                          checkpoint.ranks(), checkpoint.ranks() == 1 ? "" : "s"));
    set_aside_after(checkpoint.step());
    return checkpoint.step();
}

} // namespace tessera
