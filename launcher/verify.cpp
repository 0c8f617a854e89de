// SPDX-License-Identifier: Apache-2.0
// `tessera verify`: runs a config on one rank and on many at once, and says which value is the first that differs.
#include "core/config_catalog.hpp"
#include "core/exit_codes.hpp"
#include "core/formats/hugging_face/tokenizer_source.hpp"
#include "core/run/fit.hpp"
#include "core/run/folder.hpp"
#include "core/run/memory_limit.hpp"
#include "core/run/planted_fault.hpp"
#include "core/run/trainer.hpp"
#include "core/run/verification.hpp"
#include "core/with_thousands.hpp"
#include "kernels/error.hpp"
#include "launcher/job/start_ranks.hpp"
#include "launcher/setup.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::int64_t usual_steps = 3, most_steps = 1'000'000;
constexpr int differs = exit_code::failure;

std::optional<std::int64_t> steps_said(const Arguments& arguments) { return arguments.integer("steps", 1, most_steps); }

int start_verify(const Arguments& arguments) {
    const std::vector<std::string>& words = arguments.words();
    steps_said(arguments);
    Config::load(words[0], {words.begin() + 1, words.end()}, known_keys()); // refuses before anything is started
    return start_ranks("verify", {"steps", "plant"}, arguments);
}

// Both runs are in the memory of every rank.
void check_room(const Experiment& one, const Experiment& many, int rank, const Stream& stream) {
    const std::int64_t free = std::visit([](const auto& s) { return free_bytes(s); }, stream);
    const std::int64_t alone = one.memory.where_the_stream_works();
    const std::int64_t part = many.memory.where_the_stream_works();
    if (alone + part <= free) return;
    throw ConfigError(fmt::format("rank {} has {} bytes free for the run on one rank, {}, and its part of the run on "
                                  "many, {}: verify a smaller model (model.n_layers, model.dim, "
                                  "training.local_batch_size)",
                                  rank, with_thousands(free), with_thousands(alone), with_thousands(part)));
}

std::string text_of(const Tolerances& tolerances) {
    if (tolerances.sum == 0) return "the same bits are promised";
    return fmt::format("loss within {:.0e}, gradients within {:.0e} of their largest element, weights within {:.0e}",
                       tolerances.loss, tolerances.sum, tolerances.update);
}

std::string line_of(std::int64_t step, const Verification::Step& found) {
    return fmt::format("step {}: loss {:.6f} (differs by {:.1e}), gradients ({:.1e}), norm {:.4g}, weights and "
                       "optimizer ({:.1e})",
                       step, found.loss, found.loss_difference, found.gradient_difference, found.grad_norm,
                       found.update_difference);
}

// The text of the first fault, or "".
std::string verify(Verification& verification, std::int64_t steps, bool speaks) {
    std::string fault = verification.start();
    for (std::int64_t number = 0; number < steps && fault.empty(); ++number) {
        const Verification::Step found = verification.step(number);
        fault = found.fault;
        if (speaks && fault.empty()) fmt::print("{}\n", line_of(number + 1, found));
    }
    return fault;
}

int run_verify(const Arguments& arguments, Process& process) {
    if (arguments.has("ranks") || arguments.has("hosts") || arguments.has("hostfile")) return start_verify(arguments);
    for (const char* option : {"threads", "interface", "remote-shell", "grace", "dry-run"})
        if (arguments.has(option))
            throw ConfigError(fmt::format("--{} is of ranks to start: say --ranks, too", option));
    World& world = start_world(process);
    const std::string& file = arguments.words()[0];
    std::vector<std::string> words{arguments.words().begin() + 1, arguments.words().end()};
    Config config = Config::load(file, words, known_keys());
    settle_tokenizer(config);
    settle_run_folder(config);
    Stream stream = make_stream(config, &world);
    Stream host = make_host_stream(stream);
    Groups groups(world, make_mesh(config, world.size()), stream, config.get(parallelism_shared_memory),
                  config.get(run_reproducible) ? SumOrder::tree : SumOrder::library, config.get(run_share_gpus));
    const std::unique_ptr<Dataset> dataset = open_data(config, {});
    settle_recompute(config, view_of(world), dataset.get(), stream);
    Experiment many = plan_training(config, view_of(world), dataset.get(), stream, 0);
    Trainer::check_keys(config, many);
    config.refuse_unread();
    const std::vector<std::string> alone = words_for_one_rank(many.batch);
    words.insert(words.end(), alone.begin(), alone.end());
    const Experiment one = plan_training(Config::load(file, words, known_keys()), {}, dataset.get(), stream);
    check_room(one, many, world.rank(), stream);
    if (const std::optional<std::string> fault = arguments.text("plant"))
        plant_fault(*fault, std::max(world.size(), 2), many.train.plan);

    const std::int64_t steps = std::min({steps_said(arguments).value_or(usual_steps), many.steps, many.stage.end_step});
    Verification verification({config, *dataset, groups, stream, host}, one, many);
    const bool speaks = world.rank() == 0;
    if (speaks)
        fmt::print("{} on {} ({}) and on one rank: {}\n", file, many.train.layout.mesh.text(),
                   counted(world.size(), "rank"), text_of(verification.tolerances()));
    const std::string fault = verify(verification, steps, speaks);
    if (speaks) fmt::print("{}\n", fault.empty() ? fmt::format("{}: all agree", counted(steps, "step")) : fault);
    return fault.empty() ? 0 : differs;
}

} // namespace

Command verify_command() {
    std::vector<Option> options = options_of_ranks();
    options[0].help = "start so many ranks (default: this is one of those started)";
    options.insert(options.end(),
                   {{"steps", "K", "steps to run, at most training.steps (default 3)"},
                    {"plant", "FAULT", "to see it found: drop:COLLECTIVE or scale:VALUE (by the number of ranks)"}});
    return {"verify",
            "compare a config's run on many ranks with the same on one",
            {"verify [OPTION…] CONFIG [section.key=value …]",
             R"(Runs the first steps of CONFIG twice at once, from fresh weights: on N ranks, laid
out as [parallelism] says, and on one. Compares loss, gradients, weights and
optimizer states of every step; where they differ, finds the first value, layer,
micro-batch and rank that does. Writes nothing. Without -n it is one rank of those
that mpirun or srun have started, as `tessera train` is.

Every rank holds the whole run besides its part: a large model is verified with
fewer layers (model.n_layers=2). Exit code 0: all agree; 1: something differs.

Example
  tessera verify -n 4 configs/quickstart.toml parallelism.tensor_parallel_degree=2
)",
             options, 1, 100'000},
            run_verify};
}

} // namespace tessera
