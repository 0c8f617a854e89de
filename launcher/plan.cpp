// SPDX-License-Identifier: Apache-2.0
// `tessera plan`: what a run will hold and send, without MPI, and without data where the config tells the vocabulary.
#include "core/config_catalog.hpp"
#include "core/data/options.hpp"
#include "core/run/describe_plan.hpp"
#include "core/run/folder.hpp"
#include "core/run/memory_limit.hpp"
#include "core/run/trainer.hpp"
#include "launcher/setup.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

int run_plan(const Arguments& arguments, Process&) {
    Config config =
        Config::load(arguments.words()[0], {arguments.words().begin() + 1, arguments.words().end()}, known_keys());
    const auto ranks = static_cast<int>(arguments.integer("ranks", 1, 1 << 24).value_or(1));
    const auto rank = static_cast<int>(arguments.integer("rank", 0, ranks - 1).value_or(0));
    settle_run_folder(config);
    const Stream stream = make_planning_stream(config);
    const std::unique_ptr<Dataset> dataset = vocabulary_without_data(config) == 0 ? open_data(config, {}) : nullptr;
    if (dataset == nullptr) dataset_options(config, 1, 0, {}); // reads, and so checks, the keys of the data
    const RankView view{rank, ranks, !arguments.has("many-hosts")};
    const std::string chosen = settle_recompute(config, view, dataset.get(), stream);
    const Experiment experiment = plan_training(config, view, dataset.get(), stream);
    Trainer::check_keys(config, experiment);
    config.refuse_unread();
    check_limit(experiment, config, view, dataset.get(), stream);
    fmt::print("{}{}{}", chosen, chosen.empty() ? "" : "\n", describe_plan(experiment, view, stream));
    return 0;
}

} // namespace

Command plan_command() {
    return {"plan",
            "print memory, placements and traffic of a run, without starting it",
            {"plan [OPTION…] CONFIG [section.key=value …]",
             R"(Prints the mesh, the parameters and where they live, the collectives with their
bytes per step, and the memory of a rank by kind, to the byte: what `train`
allocates. It needs no MPI; it opens the data only where the vocabulary cannot
be known without (character tokenizer; data.vocab_size = 0).

Example
  tessera plan -n 4 configs/quickstart.toml training.global_batch_size=48
)",
             {{"ranks,n", "N", "ranks of the run (default 1)"},
              {"rank", "R", "the rank to show (default 0)"},
              {"many-hosts", "", "the ranks are not all on one host: no shared memory"}},
             1,
             1000},
            run_plan};
}

} // namespace tessera
