// SPDX-License-Identifier: Apache-2.0
// `tessera train`: one rank of a training run; mpirun, srun or `tessera launch` start as many as wanted.
#include "core/config_catalog.hpp"
#include "core/exit_codes.hpp"
#include "core/formats/hugging_face/tokenizer_source.hpp"
#include "core/plan/shares.hpp"
#include "core/run/fit.hpp"
#include "core/run/folder.hpp"
#include "core/run/memory_limit.hpp"
#include "core/run/text_file.hpp"
#include "core/run/trainer.hpp"
#include "core/run/tuning.hpp"
#include "core/visible.hpp"
#include "core/watch/job_folder.hpp"
#include "core/watch/planted_stall.hpp"
#include "core/watch/watchdog.hpp"
#include "core/with_thousands.hpp"
#include "launcher/job/environment.hpp"
#include "launcher/setup.hpp"

#include <fmt/format.h>
#include <unistd.h>

namespace tessera {
namespace {

void keep_config(const Config& config, const std::filesystem::path& folder) {
    replace_file(folder / "config.toml", config.in_use());
    replace_file(folder / "config_origins.txt", config.origins());
}

std::string memory_text(const MemoryNeed& planned, const MemoryNeed& allocated) {
    std::vector<std::string> kinds;
    for (std::size_t i = 0; i < memory_kinds; ++i) {
        const auto kind = static_cast<MemoryKind>(i);
        kinds.push_back(fmt::format("{} {}", name_of(kind), with_thousands(allocated[kind])));
    }
    return fmt::format("memory per rank: planned {} bytes, allocated {} bytes ({})", with_thousands(planned.total()),
                       with_thousands(allocated.total()), fmt::join(kinds, "; "));
}

std::string classes_text(const SampleForm& sample) {
    if (sample.is_text()) return fmt::format(", vocabulary {}", sample.classes);
    return sample.classes == 0 ? "" : fmt::format(", {} classes", sample.classes);
}

std::string ranks_text(const World& world, const Stream& stream) {
    return fmt::format("{}: {} ({} on this host), {} each", world.host(), counted(world.size(), "rank"),
                       world.local_size(), std::visit([](const auto& s) { return s.text(); }, stream));
}

void tell_of(const Experiment& experiment, const Dataset& dataset, Log& log) {
    if (const std::string told = environment_text(environment_here()); !told.empty())
        log.info(fmt::format("environment: {}", told));
    log.info(
        fmt::format("model: {}{}", parameters_text(experiment.train.model), classes_text(experiment.sizes.sample)));
    if (experiment.ramp.grows()) log.info(fmt::format("batches grow: {}", experiment.ramp.text()));
    for (const SkippedRecords& skipped : dataset.skipped())
        log.info(fmt::format("data: left out {}, the first: {}", counted(skipped.count, skipped.kind),
                             visible(skipped.first)));
}

void tell_of_stage(const Experiment& experiment, Log& log) {
    const ShareSizes sizes = share_sizes(experiment.train.layout);
    log.info(experiment.batch.text(sizes.least, sizes.most));
}

// Each stage of a growing batch has a plan and a trainer of its own, which goes on as a run does that was stopped
// there. False when a signal asked to stop.
bool train_stages(Config& config, const Ground& ground, const RankView& view, Experiment& experiment, StopRequest& stop,
                  Log& log, const std::filesystem::path& folder) {
    const Team team = team_of(ground.groups.all(), ground.host);
    bool kept = false;
    for (std::int64_t step = 0;;) {
        if (experiment.ramp.grows()) experiment = plan_training(config, view, &ground.dataset, ground.stream, step);
        ground.groups.recorder().begin(Activity::starting);
        Trainer trainer(ground, experiment, stop, log, folder);
        const std::int64_t first = trainer.first_step();
        if (experiment.ramp.stage_of(first) != experiment.stage) { // it resumes within another
            step = first;
            continue;
        }
        tell_of_stage(experiment, log);
        if (view.rank == 0 && !kept) keep_config(config, folder);
        kept = true;
        log.info(memory_text(experiment.memory, trainer.allocated()));
        log.print_gathered(team.gather(log.take_warnings()));
        const bool finished = trainer.train();
        trainer.report(log);
        if (!finished || !trainer.has_next_stage()) return finished;
        step = experiment.stage.end_step;
        config.settle(checkpoint_resume.name, std::string("auto")); // from what it has just saved
    }
}

int run_train(const Arguments& arguments, Process& process) {
    StopRequest stop; // from here on a signal ends the run after its next step, with a checkpoint
    World& world = start_world(process);
    Config config =
        Config::load(arguments.words()[0], {arguments.words().begin() + 1, arguments.words().end()}, known_keys());
    settle_tokenizer(config);
    const std::filesystem::path folder = settle_run_folder(config);
    process.run_folder = folder;
    process.job_start = job_start(folder);
    Deadlines::check_keys(config);
    const auto neighbours = world.group().on_this_host();
    const auto recorder = std::make_shared<FlightRecorder>(neighbours);
    process.step = [recorder] { return recorder->own().state().step + 1; };
    if (const std::optional<std::string> fault = arguments.text("plant"))
        recorder->plant(planted_stall(*fault, world.rank()));
    const Watchdog watchdog(world, neighbours, *recorder,
                            {folder, make_mesh(config, world.size()), config.get(run_step_timeout), process.job_start});
    const bool awaited = !this_job().empty(); // by a launcher, which has read the config
    if (awaited) watchdog.write_ranks();
    Stream stream = make_stream(config, &world, true);
    Stream host = make_host_stream(stream);
    Groups groups(world, make_mesh(config, world.size()), stream, config.get(parallelism_shared_memory),
                  config.get(run_reproducible) ? SumOrder::tree : SumOrder::library, config.get(run_share_gpus),
                  Groups::Watch{*recorder, config.get(run_check_collectives)});
    const std::string not_recorded = settle_cuda_graph(config, world, stream);
    recorder->begin(Activity::starting); // each part of the start has a deadline of its own
    const std::unique_ptr<Dataset> dataset = open_data(config, {});
    recorder->begin(Activity::starting);
    const std::string recomputed = settle_recompute(config, view_of(world), dataset.get(), stream);
    Experiment experiment = plan_training(config, view_of(world), dataset.get(), stream);
    Trainer::check_keys(config, experiment);
    Saver::check_start(config);
    config.refuse_unread();
    check_limit(config, view_of(world), dataset.get(), stream);
    check_fits(experiment, config, view_of(world), dataset.get(), stream);
    check_stages(experiment, config, view_of(world), dataset.get(), stream);

    recorder->begin(Activity::starting);
    Log log(config, folder, world.rank());
    if (!awaited) watchdog.write_ranks();
    if (const std::string warning = thread_warning(world, stream); !warning.empty()) log.warning(warning);

    log.info(fmt::format("{} on {}", folder.string(), ranks_text(world, stream)));
    tell_of(experiment, *dataset, log);
    for (const std::string& settled : {recomputed, not_recorded})
        if (!settled.empty()) log.info(settled);
    recorder->begin(Activity::starting);
    const auto [agreed, trouble] = agree_on_libraries(team_of(groups.all(), host), config, stream, folder);
    if (!agreed.empty()) log.info(agreed);
    if (!trouble.empty()) log.warning(trouble);
    const bool finished =
        train_stages(config, {config, *dataset, groups, stream, host}, view_of(world), experiment, stop, log, folder);
    recorder->begin(Activity::finishing);
    log.print_gathered(team_of(groups.all(), host).gather(log.take_warnings()));
    world.group().barrier(); // a launcher ends the others when one has left with another code than 0
    log.info(fmt::format("{}: {}", finished ? "done" : "stopped on request, run again to go on", folder.string()));
    return finished ? exit_code::done : exit_code::run_again;
}

} // namespace

Command train_command() {
    return {"train",
            "train a model (one rank; mpirun, srun or launch start many)",
            {"train CONFIG [section.key=value …]",
             R"(Trains the model of CONFIG. Started by mpirun, srun --mpi=pmix or `tessera
launch`, it is one rank of many; started alone, it is the only one. Rank and
size come from MPI.

The run's folder (run.folder, or runs/NAME) receives config.toml with every
value it read, config_origins.txt with the place each came from, metrics.jsonl,
logs/rank-NNNN.log and checkpoints/. A run whose folder holds a checkpoint goes
on from there (checkpoint.resume), on any number of ranks. SIGUSR1, SIGTERM or
Ctrl-C: save, then exit code 75. SIGUSR2: save and go on. Ctrl-C twice: end now.

Examples
  mpirun -n 2 tessera train configs/quickstart.toml
  srun --mpi=pmix tessera train configs/gpt_char.toml training.steps=500
)",
             {{"plant", "FAULT", "to see it noticed: 'RANK STEP WHERE WHAT', as in '1 5 reading sleep:30'"}},
             1,
             1000},
            run_train};
}

} // namespace tessera
