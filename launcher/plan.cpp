// SPDX-License-Identifier: Apache-2.0
// `tessera plan`: what a run will hold and send, without MPI, and without data where the config tells the vocabulary.
#include "core/config_catalog.hpp"
#include "core/formats/hugging_face/tokenizer_source.hpp"
#include "core/run/describe_cost.hpp"
#include "core/run/describe_plan.hpp"
#include "core/run/fit.hpp"
#include "core/run/folder.hpp"
#include "core/run/layout_search.hpp"
#include "core/run/memory_limit.hpp"
#include "core/run/prediction.hpp"
#include "core/run/trainer.hpp"
#include "core/with_thousands.hpp"
#include "kernels/error.hpp"
#include "launcher/measured_host.hpp"
#include "launcher/setup.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>

namespace tessera {
namespace {

std::int64_t memory_named(const std::string& text) {
    const std::optional<std::int64_t> bytes = bytes_named(text);
    if (!bytes || *bytes < 1)
        throw ConfigError(fmt::format("--memory {}: expected a size such as 512MiB, 80GiB or 1.5TiB", text));
    return *bytes;
}

// What the config must say to have it: the keys in which it differs, but the one that takes what is left.
std::string keys_of(const Choices& choices, const Config& config) {
    std::string keys;
    for (const ConfigEntry& now : config.entries())
        for (const auto& [key, value] : choices)
            if (key == now.name && toml_text(value) != now.value && now.value != "-1")
                keys += fmt::format(" {}={}", key, toml_text(value));
    return keys.empty() ? " the config as it is" : keys;
}

std::string text_of(const FoundLayout& layout, const Config& config, std::size_t number) {
    return fmt::format("\n{:>2}. {}: step {:.4g} ms, {:.4g} TFLOP/s per rank, {} {}s/s, {}; {}\n   {}\n", number,
                       layout.mesh, layout.cost.total() * 1e3, layout.cost.flops_per_second / 1e12,
                       with_thousands(std::llround(layout.units_per_second)), layout.unit,
                       in_binary_units(layout.memory), layout.bounds, keys_of(layout.choices, config));
}

void print(const SearchResult& result, const SearchOptions& options, const Machine& machine, const Config& config) {
    fmt::print("{} layouts of {} on {}: {} do not fit in {}, {} cannot be sharded so, {} cannot be among the fastest\n",
               with_thousands(result.tried), counted(options.ranks, "rank"), machine.file,
               with_thousands(result.too_large), in_binary_units(options.memory), with_thousands(result.refused),
               with_thousands(result.slower));
    for (std::size_t i = 0; i < result.best.size(); ++i)
        fmt::print("{}", text_of(result.best[i], config, i + 1));
}

// Why nothing was found.
[[noreturn]] void refuse(const SearchResult& result, const SearchOptions& options, const Config& config) {
    if (result.tried == 0)
        config.refuse(training_global_batch.name, "no size of a micro-batch that the search tries divides it: powers "
                                                  "of two and training.local_batch_size");
    if (result.least_memory == 0)
        throw ConfigError(
            fmt::format("no layout of {}: why not, for one: {}", counted(options.ranks, "rank"), result.refusal));
    throw ConfigError(fmt::format("no layout of {} fits in {}: the least that was found is {}, on {} with{}",
                                  counted(options.ranks, "rank"), in_binary_units(options.memory),
                                  in_binary_units(result.least_memory), result.least_mesh,
                                  keys_of(result.least, config)));
}

// Options that only others give a meaning are refused without them.
void check_together(const Arguments& arguments) {
    const bool searches = arguments.has("search");
    for (const char* option : {"rank", "beside", "many-hosts"})
        if (searches && arguments.has(option))
            throw ConfigError(fmt::format("--{} says nothing in a --search, which looks at all ranks", option));
    if (!searches && arguments.has("memory")) throw ConfigError("--memory is the limit of a --search: say that, too");
    if (!searches && arguments.has("keys")) throw ConfigError("--keys is of what a --search finds: say that, too");
    if (!arguments.has("machine") && arguments.has("beside"))
        throw ConfigError("--beside changes a prediction: say --machine FILE, too");
}

int run_search(const Arguments& arguments, Config& config, int ranks) {
    if (config.get(training_recompute) == "auto")
        config.refuse(training_recompute.name, "is what a search varies: leave the key out");
    const std::optional<std::string> file = arguments.text("machine");
    const auto here = [&] { return arguments.has("keys") ? usual_host(config, ranks) : measured_here(config, ranks); };
    const Machine machine = machine_for(config, file ? read_machine(*file) : here());
    settle_for(machine, config);
    const Stream stream = make_planning_stream(config);
    const std::unique_ptr<Dataset> dataset = data_of(config);
    SearchOptions options;
    options.ranks = ranks;
    options.memory = arguments.has("memory") ? memory_named(*arguments.text("memory")) : machine.memory_bytes;
    options.memory = std::min(options.memory, memory_limit(config).value_or(options.memory));
    if (arguments.has("keys")) options.most = 1;
    const SearchResult result = search_layouts(config, options, machine, dataset.get(), stream);
    if (result.best.empty()) refuse(result, options, config);
    if (arguments.has("keys"))
        for (const auto& [key, value] : result.best[0].choices)
            fmt::print("{}={}\n", key, toml_text(value));
    else
        print(result, options, machine, config);
    return 0;
}

int run_plan(const Arguments& arguments, Process&) {
    Config config =
        Config::load(arguments.words()[0], {arguments.words().begin() + 1, arguments.words().end()}, known_keys());
    const auto ranks = static_cast<int>(arguments.integer("ranks", 1, 1 << 24).value_or(1));
    const auto rank = static_cast<int>(arguments.integer("rank", 0, ranks - 1).value_or(0));
    check_together(arguments);
    settle_tokenizer(config);
    settle_run_folder(config);
    if (arguments.has("search")) return run_search(arguments, config, ranks);
    const std::optional<std::string> file = arguments.text("machine");
    std::optional<Machine> machine;
    if (file) {
        machine = machine_for(config, read_machine(*file));
        settle_for(*machine, config);
    }
    const Stream stream = make_planning_stream(config);
    const std::unique_ptr<Dataset> dataset = data_of(config);
    const bool one_node = !machine || ranks <= machine->ranks_per_node;
    const RankView view{rank, ranks, one_node && !arguments.has("many-hosts")};
    const std::string chosen = settle_recompute(config, view, dataset.get(), stream);
    const TrainingPlans plans(config, ranks, view.one_host, dataset.get(), stream);
    const Experiment experiment = plans.of(rank);
    Trainer::check_keys(config, experiment);
    config.refuse_unread();
    check_limit(config, view, dataset.get(), stream);
    check_stages(experiment, config, view, dataset.get(), stream);
    fmt::print("{}{}{}", chosen, chosen.empty() ? "" : "\n", describe_plan(experiment, view, stream));
    if (machine) {
        const Layout& layout = experiment.train.layout;
        const std::vector<int> beside = axes_named(arguments.text("beside").value_or(""), layout.mesh);
        const Prediction prediction = predict(experiment, plans, rank, *machine, beside);
        fmt::print("{}", describe_cost(prediction.cost, experiment, *machine));
    }
    return 0;
}

} // namespace

Command plan_command() {
    return {"plan",
            "print memory, placements and traffic of a run, without starting it",
            {"plan [OPTION…] CONFIG [section.key=value …]",
             R"(Prints the mesh, the parameters and where they live, the collectives with their
bytes per step, and the memory of a rank by kind, to the byte: what `train`
allocates. It needs no MPI; it opens the data only where the vocabulary, or the
form of samples, cannot be known without (character tokenizer; data.vocab_size,
data.classes, data.features or data.image_shape not said).

--search looks through all degrees of the mesh's axes (spatial ranks for
convolutions, replicas of whole nodes where there are several), micro-batches of a
power of two rows, or of training.local_batch_size, that divide the global batch,
1f1b, zero_bubble and interleaved pipelines of 2 or 4 chunks, sequence parallelism,
stages of ZeRO and recomputation; what the command line says of a key stays. Layouts
are planned in the order of a lower bound of their time, until no other can be among
the fastest, and none is whose bound of memory does not fit. By rule are left out:
gpipe (as slow as 1f1b, and larger), and ZeRO 2 and 3, fewer replicas or more
recomputation where less of them fits. All other keys are as the config has them.
Without --machine it measures this host first, as `tessera bench -n N` does.
A deep GPT is ranked by plans of fewer layers; what is listed is planned as it is.

Example
  tessera plan -n 4 configs/quickstart.toml training.global_batch_size=48
)",
             {{"ranks,n", "N", "ranks of the run (default 1)"},
              {"rank", "R", "the rank to show (default 0)"},
              {"machine", "FILE", "predict the time of a step on this machine (cluster/machines)"},
              {"beside", "AXES", "predict as if collectives over these went on beside the work: data,tensor"},
              {"search", "", "list the layouts that fit in memory, the fastest first"},
              {"memory", "SIZE", "of a rank, as 80GiB (default: what the machine's file says)"},
              {"keys", "", "of a search: only the keys of the fastest, a line each, measuring nothing"},
              {"many-hosts", "", "the ranks are not all on one host: no shared memory"}},
             1,
             1000},
            run_plan};
}

} // namespace tessera
