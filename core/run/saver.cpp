// SPDX-License-Identifier: Apache-2.0
// Checkpoints of a run. Random numbers and the data's order are functions of seed and step, so these two are all the
// random state and data position there is.
#include "core/run/saver.hpp"

#include "core/optimizers/guard.hpp"
#include "core/run/changed_keys.hpp"
#include "core/run/disk_space.hpp"
#include "core/run/rollback.hpp"
#include "core/run/transfer.hpp"
#include "core/with_thousands.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <utility>

namespace tessera {
namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// What a rollback goes to stays, however many checkpoints of stops are newer.
Retention retention_of(const Config& config) {
    Retention retention{config.get(checkpoint_keep), config.get(checkpoint_keep_every)};
    if (config.get(guard_policy) == "rollback")
        retention.newest_of = {config.get(checkpoint_interval), config.get(snapshot_interval)};
    return retention;
}

} // namespace

Saver::Saver(const Ground& ground, const Experiment& experiment, const Executor& executor, Log& log,
             const std::filesystem::path& run_folder)
    : ground_(ground), experiment_(experiment), executor_(executor), log_(log),
      team_(team_of(ground.groups.all(), ground.host)), folder_((run_folder / "checkpoints").string()),
      interval_(ground.config.get(checkpoint_interval)),
      stop_on_error_(ground.config.get(checkpoint_on_error) == "stop"),
      asynchronous_(ground.config.get(checkpoint_asynchronous) && interval_ > 0),
      writer_(team_, folder_, retention_of(ground.config)) {}

void Saver::check_keys(const Config& config) {
    check_transfer_keys(config);
    if (config.get(checkpoint_interval) < -1) config.refuse(checkpoint_interval.name, "must be at least -1");
    if (config.get(checkpoint_keep) < 0) config.refuse(checkpoint_keep.name, "must be at least 0");
    if (config.get(checkpoint_keep_every) < 0) config.refuse(checkpoint_keep_every.name, "must be at least 0");
    const std::string on_error = config.get(checkpoint_on_error);
    if (on_error != "stop" && on_error != "continue")
        config.refuse(checkpoint_on_error.name, "expected stop or continue");
    if (config.get(checkpoint_resume).empty())
        config.refuse(checkpoint_resume.name, "expected auto, never or the path of a checkpoint");
    config.get(checkpoint_asynchronous);
    const std::vector<ConfigEntry> known = config.entries();
    for (const std::string& key : config.get(checkpoint_allow_changes))
        if (std::none_of(known.begin(), known.end(), [&](const ConfigEntry& entry) { return entry.name == key; }))
            config.refuse(checkpoint_allow_changes.name, fmt::format("no key is named '{}'", key));
}

void Saver::check_start(const Config& config) {
    const std::string resume = config.get(checkpoint_resume);
    if (resume != "auto" && resume != "never") Checkpoint{resume};
}

bool Saver::due(std::int64_t steps_done, bool last) const {
    if (interval_ < 0) return false;
    return last || (interval_ > 0 && steps_done % interval_ == 0);
}

CheckpointContent Saver::content_of(std::int64_t steps_done, const ViewOf& view_of) {
    if (team_.rank == 0 && metadata_.empty()) {
        metadata_ = {{"config", ground_.config.resolved()},
                     {"data.fingerprint", ground_.dataset.fingerprint()},
                     {"data.vocabulary", fmt::format("{}", ground_.dataset.form().classes)},
                     {"mesh", experiment_.train.layout.mesh.text()},
                     {"seed", fmt::format("{}", experiment_.seed)}};
        if (const Tokenizer* tokenizer = ground_.dataset.tokenizer()) metadata_["tokenizer"] = tokenizer->save();
    }
    CheckpointContent content{
        .step = steps_done, .metadata = metadata_, .tensors = parts_to_save(experiment_.train, view_of, team_.rank)};
    if (team_.rank == 0)
        content.metadata["data.next_sample"] = fmt::format("{}", experiment_.ramp.samples_before(steps_done));
    return content;
}

// Rather now than after hours: a save that has no room fails.
void Saver::check_space(std::int64_t steps_done) {
    if (interval_ < 0) return; // perhaps nothing will be saved
    std::int64_t bytes = 0;
    for (const TensorPart& part : parts_to_save(experiment_.train, planned(experiment_.train), team_.rank))
        bytes += part.data.bytes();
    const std::vector<std::string> all = team_.gather(fmt::format("{}", bytes));
    if (team_.rank != 0) return;
    ComingSaves saves{.bytes = 0,
                      .interval = interval_,
                      .done = steps_done,
                      .end = experiment_.steps,
                      .retention = retention_of(ground_.config),
                      .present = count_checkpoints(folder_)};
    for (const std::string& one : all)
        saves.bytes += std::stoll(one);
    const std::int64_t count = most_at_once(saves), free = free_at(folder_);
    if (free < 0 || count == 0 || free / count >= saves.bytes) return;
    const std::string need = fmt::format("{} has {} free, a checkpoint needs {}", folder_, in_binary_units(free),
                                         in_binary_units(saves.bytes));
    if (free < saves.bytes && stop_on_error_)
        throw ConfigError(fmt::format("{}: make room, set run.folder to another disk, or go on without checkpoints: "
                                      "checkpoint.on_error = \"continue\"",
                                      need));
    log_.warning(fmt::format("{}, and {} more will be there at once (checkpoint.keep_latest_k)", need, count));
}

// All ranks have the memory, or none uses it: they must agree when a save has ended.
void Saver::make_snapshot() {
    if (!keeps_copy(ground_.config, ground_.stream)) return;
    std::string failure;
    const std::int64_t bytes = Snapshot::bytes_for(parts_to_save(experiment_.train, memory_of(executor_), team_.rank));
    try {
        Buffer memory = std::visit([&](const auto& s) { return allocate_host(s, bytes); }, ground_.stream);
        snapshot_ = std::make_unique<Snapshot>(ground_.stream, std::move(memory));
    } catch (const SystemError& error) {
        failure = error.what();
    }
    const std::vector<std::string> failures = team_.gather(failure);
    for (std::size_t rank = 0; rank < failures.size(); ++rank)
        if (!failures[rank].empty() && asynchronous_)
            log_.warning(
                fmt::format("training will stand still for each checkpoint: rank {} has no memory for a copy: {}", rank,
                            failures[rank]));
    const bool everywhere = team_.all(failure.empty());
    if (!everywhere) snapshot_.reset();
    asynchronous_ = asynchronous_ && everywhere;
    if (asynchronous_)
        log_.info(fmt::format("checkpoints are written beside training, from a copy of {} bytes on this rank",
                              with_thousands(bytes)));
}

// Of what lies on a GPU a copy is written, in any case. SystemError on all ranks where one has no memory for it.
void Saver::make_room(const CheckpointContent& content) {
    std::string failure;
    try {
        if (snapshot_ == nullptr)
            snapshot_ = std::make_unique<Snapshot>(ground_.stream, Buffer(Snapshot::bytes_for(content.tensors)));
    } catch (const SystemError& error) {
        failure = error.what();
    }
    if (!team_.all(failure.empty()))
        throw SystemError(failure.empty() ? "another rank has no memory for a copy to save" : failure);
}

void Saver::save(std::int64_t steps_done, bool last, const std::map<std::string, std::string>& also) {
    const FlightRecorder::Scope saving(ground_.groups.recorder(), Activity::saving);
    const Clock::time_point begin = Clock::now();
    finish(); // the save before
    CheckpointContent content = content_of(steps_done, memory_of(executor_));
    content.metadata.insert(also.begin(), also.end());
    const bool beside = asynchronous_ && !last;
    const bool in_host_memory = std::holds_alternative<CpuStream>(ground_.stream);
    write(std::move(content), beside || !in_host_memory, beside, last);
    if (!ended_.empty() && ended_.back().step == steps_done)
        ended_.back().stall = seconds_since(begin);
    else
        current_.stall = seconds_since(begin);
}

void Saver::save_copy(std::int64_t step, const std::map<std::string, std::string>& also, const ViewOf& view_of) {
    const FlightRecorder::Scope saving(ground_.groups.recorder(), Activity::saving);
    finish();
    CheckpointContent content = content_of(step, view_of);
    content.metadata.insert(also.begin(), also.end());
    write(std::move(content), false, false, true);
}

void Saver::write(CheckpointContent content, bool copied, bool beside, bool last) {
    current_ = {.step = content.step};
    begun_ = Clock::now();
    try {
        if (copied && !std::holds_alternative<CpuStream>(ground_.stream)) make_room(content);
        if (copied) snapshot_->take(content.tensors);
        writer_.begin(std::move(content));
    } catch (const SystemError& failure) {
        go_on_after(failure, last);
        return;
    }
    if (!beside) take_further(true, last);
}

void Saver::finish() { take_further(true, false); }

std::vector<CheckpointRecord> Saver::settle(bool wait) {
    if (!writer_.under_way()) return std::exchange(ended_, {});
    const FlightRecorder::Scope saving(ground_.groups.recorder(), Activity::saving);
    take_further(wait, wait);
    return std::exchange(ended_, {});
}

void Saver::take_further(bool wait, bool last) {
    if (!writer_.under_way()) return;
    try {
        if (wait)
            writer_.finish();
        else if (!writer_.advance())
            return;
    } catch (const SystemError& failure) {
        go_on_after(failure, last);
        return;
    }
    current_.seconds = seconds_since(begun_);
    ground_.groups.recorder().saved_in(static_cast<std::int64_t>(current_.seconds * 1e9));
    current_.bytes = writer_.bytes();
    ended_.push_back(current_);
    log_.info(fmt::format("saved {}/step-{:08d}", folder_, current_.step));
    if (!writer_.untidy().empty()) log_.warning("an old checkpoint stays: " + writer_.untidy());
}

// All ranks are told of the same failure and have the same key, so that none goes on alone. The last save of a run is
// what there would be to go on for.
void Saver::go_on_after(const std::exception& failure, bool last) {
    if (stop_on_error_ || last) throw SystemError(failure.what());
    if (team_.rank == 0) log_.warning(fmt::format("training goes on: {}", failure.what()));
}

// The newest checkpoint below step `before` that opens; "" for none. For rank 0.
std::string Saver::newest_here(std::int64_t before, std::vector<std::string>& skipped) const {
    const std::size_t known = skipped.size();
    std::string newest = newest_checkpoint(folder_, &skipped, before);
    for (std::size_t i = known; i < skipped.size(); ++i)
        log_.warning("not resumed from: " + skipped[i]);
    return newest;
}

// That, or the one that the config names. Rank 0 looks, all ranks take its word: they must not disagree about a folder
// that changes under them.
std::string Saver::checkpoint_to_resume(std::int64_t before, std::vector<std::string>& skipped) const {
    const std::string resume = ground_.config.get(checkpoint_resume);
    if (resume == "never") return {};
    if (resume != "auto") return resume;
    const std::string newest = team_.rank == 0 ? newest_here(before, skipped) : "";
    if (team_.rank == 0 && newest.empty() && !skipped.empty())
        throw ConfigError(fmt::format("{} holds checkpoints, but none that can be resumed: {}; set "
                                      "checkpoint.resume = \"never\" to start again",
                                      folder_, fmt::join(skipped, "; ")));
    return team_.broadcast(newest);
}

std::string Saver::restore(const Checkpoint& checkpoint) const {
    std::string damage;
    try {
        const std::vector<std::string> started =
            restore_tensors(checkpoint, experiment_.train, memory_of(executor_), executor_.stream());
        if (!started.empty())
            log_.info(fmt::format("{} has none of these, which start anew: {}", checkpoint.folder(),
                                  fmt::join(started, ", ")));
    } catch (const ConfigError& error) { // its shapes have been looked at: nobody can mend it
        damage = error.what();
    }
    const std::vector<std::string> all = team_.gather(damage);
    const auto first = std::find_if(all.begin(), all.end(), [](const std::string& text) { return !text.empty(); });
    return team_.broadcast(first == all.end() ? "" : *first);
}

bool Saver::may_change(std::string_view key) const {
    const std::vector<std::string> allowed = ground_.config.get(checkpoint_allow_changes);
    return std::find(allowed.begin(), allowed.end(), key) != allowed.end();
}

void Saver::compare_config(const Checkpoint& checkpoint) const {
    const auto saved = checkpoint.metadata().find("config");
    if (saved == checkpoint.metadata().end()) return;
    std::string text;
    for (const ChangedKey& key : changed_keys(saved->second, ground_.config.resolved())) {
        if (changes_the_meaning(key.name) && !may_change(key.name)) {
            const bool of_a_table = key.name.find('[') != std::string::npos;
            const std::string where = of_a_table ? ground_.config.file() : ground_.config.where(key.name);
            throw ConfigError(fmt::format("{}: {} = {}: {} was saved with {}; change it back, set checkpoint.resume = "
                                          "\"never\", or allow it: checkpoint.allow_changes = [\"{}\"]",
                                          where, key.name, key.now, checkpoint.folder(), key.before, key.name));
        }
        if (!key.name.starts_with("checkpoint."))
            text += fmt::format("{}{} {} -> {}", text.empty() ? "" : ", ", key.name, key.before, key.now);
    }
    if (!text.empty()) log_.info(fmt::format("changed since {} was saved: {}", checkpoint.folder(), text));
}

// A run that goes on with another seed, batch or other data would be neither the old one nor a new one.
void Saver::check_same_experiment(const Checkpoint& checkpoint) const {
    compare_config(checkpoint);
    const auto& metadata = checkpoint.metadata();
    const auto expect = [&](const std::string& name, const std::string& now, std::string_view key) {
        const auto found = metadata.find(name);
        if (found == metadata.end() || found->second == now || may_change(key)) return;
        ground_.config.refuse(key, fmt::format("{} was saved with {} {}, this run has {}; change it back, set "
                                               "checkpoint.resume = \"never\", or allow it: "
                                               "checkpoint.allow_changes = [\"{}\"]",
                                               checkpoint.folder(), name, found->second, now, key));
    };
    expect("seed", fmt::format("{}", experiment_.seed), "training.seed");
    expect("data.fingerprint", ground_.dataset.fingerprint(), "data.files");
    expect("data.next_sample", fmt::format("{}", experiment_.ramp.samples_before(checkpoint.step())),
           experiment_.ramp.grows() ? training_batch_ramp.name
                                    : training_global_batch.name); // another would skip samples, or repeat them
    require_tensors(checkpoint, experiment_.train);
}

void Saver::set_aside_after(std::int64_t step) {
    if (team_.rank != 0) return;
    for (const std::string& path : set_aside_checkpoints_after(folder_, step))
        log_.info(fmt::format("this run starts from step {}: a checkpoint of another course is now {}",
                              std::max<std::int64_t>(step, 0), path));
}

// Without a guard nobody goes on counting them: Adam takes them for updates.
void Saver::tell_of_skipped_steps(const Checkpoint& checkpoint) const {
    const std::string name(guard_skipped_steps);
    if (team_.rank != 0 || experiment_.guard || !checkpoint.has(name)) return;
    float skipped = 0;
    checkpoint.read(name, {}, View(&skipped, {}, DType::f32));
    if (skipped > 0)
        log_.warning(fmt::format("{} steps that changed nothing count as updates from here on: there is no guard now "
                                 "({})",
                                 skipped, guard_policy.name));
}

void Saver::take_first_weights() const {
    const std::string from = ground_.config.get(model_init_from);
    if (from.empty()) return;
    const Transferred found = take_weights(ground_.config, experiment_.train, memory_of(executor_), executor_.stream());
    log_.info(transfer_text(found, from));
    if (team_.rank == 0 && !found.unlike.empty())
        log_.warning(fmt::format("{} was trained with {}", from, fmt::join(found.unlike, "; ")));
}

std::int64_t Saver::start_or_resume() {
    std::vector<std::string> skipped;
    std::string path = checkpoint_to_resume(INT64_MAX, skipped);
    while (!path.empty()) {
        const Checkpoint checkpoint(path);
        const std::int64_t step = checkpoint.step();
        check_same_experiment(checkpoint);
        if (const std::string damage = restore(checkpoint); !damage.empty()) {
            if (ground_.config.get(checkpoint_resume) != "auto") throw ConfigError(damage);
            if (team_.rank == 0) log_.warning("not resumed from: " + damage);
            skipped.push_back(damage);
            path = checkpoint_to_resume(step, skipped);
            continue;
        }
        tell_of_skipped_steps(checkpoint);
        if (step >= experiment_.steps)
            log_.info(fmt::format("nothing is left to train: training.steps = {}", experiment_.steps));
        log_.info(fmt::format("resumed from {} at step {}, written by {} rank{}", path, step, checkpoint.ranks(),
                              checkpoint.ranks() == 1 ? "" : "s"));
        set_aside_after(step);
        check_space(step);
        make_snapshot();
        resumed_ = checkpoint.metadata();
        return step;
    }
    initialize_weights(experiment_.train, executor_, experiment_.seed);
    initialize_states(experiment_.train, executor_);
    take_first_weights();
    start_averages(experiment_.train, executor_);
    set_aside_after(-1); // of step 0, too: it may be of somewhere else
    check_space(0);
    make_snapshot();
    return 0;
}

} // namespace tessera
