// SPDX-License-Identifier: Apache-2.0
// Plans cost milliseconds, so what would fit is found by planning it.
#include "core/run/fit.hpp"

#include "core/run/memory_limit.hpp"
#include "core/with_thousands.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"

#include <fmt/format.h>
#include <optional>

namespace tessera {
namespace {

struct Change {
    std::string_view key;
    ConfigValue value;
};

// Cheapest first: what costs only speed, then what costs a promise, then what changes the experiment.
std::vector<std::vector<Change>> possible_changes(const Experiment& experiment) {
    std::vector<std::vector<Change>> ways(6);
    for (const std::int64_t stage : {1, 2, 3})
        if (experiment.train.layout.data_ranks() > 1) ways[0].push_back({parallelism_zero.name, stage});
    for (const char* what : {"selective", "full"})
        ways[1].push_back({training_recompute.name, std::string(what)});
    for (std::int64_t rows = experiment.batch.micro_batch / 2; rows >= 1; rows /= 2)
        ways[2].push_back({training_local_batch.name, rows});
    if (experiment.sizes.precision.compute == DType::f32) ways[3].push_back({training_dtype.name, std::string("bf16")});
    if (experiment.train.plan.slots > 2) ways[4].push_back({run_reproducible.name, false});
    const SampleForm& sample = experiment.sizes.sample;
    for (std::int64_t tokens = sample.units / 2; sample.is_text() && tokens >= 16; tokens /= 2)
        ways[5].push_back({training_sequence.name, tokens});
    return ways;
}

// What the run would need with the change; nothing when the other keys do not allow it.
std::optional<std::int64_t> need_with(Config config, const Change& change, const RankView& view, const Dataset* dataset,
                                      const Stream& stream) {
    config.settle(change.key, change.value);
    if (change.key == training_local_batch.name) config.settle(training_accumulation.name, std::int64_t{0});
    try {
        return counted_bytes(plan_training(config, view, dataset, stream).memory, stream);
    } catch (const ConfigError&) {
        return std::nullopt;
    }
}

} // namespace

std::string memory_table(const MemoryNeed& need) {
    std::string text;
    const auto line = [&](std::string_view name, std::int64_t bytes) {
        fmt::format_to(std::back_inserter(text), "  {:<14}{:>18}  {:>14}\n", name, with_thousands(bytes),
                       in_binary_units(bytes));
    };
    for (std::size_t i = 0; i < memory_kinds; ++i)
        line(name_of(static_cast<MemoryKind>(i)), need[static_cast<MemoryKind>(i)]);
    line("total", need.total());
    return text;
}

std::string ways_to_fit(const Config& config, const RankView& view, const Dataset* dataset, const Stream& stream,
                        std::int64_t bytes) {
    const Experiment now = plan_training(config, view, dataset, stream);
    std::string text;
    int found = 0;
    for (const std::vector<Change>& way : possible_changes(now))
        for (const Change& change : way) { // the smallest that does
            const std::optional<std::int64_t> need = need_with(config, change, view, dataset, stream);
            if (!need || *need > bytes) continue;
            if (++found <= 3)
                fmt::format_to(std::back_inserter(text), "  {}={}: {}\n", change.key, toml_text(change.value),
                               in_binary_units(*need));
            break;
        }
    return text;
}

void check_fits(const Experiment& experiment, const Config& config, const RankView& view, const Dataset* dataset,
                const Stream& stream) {
    const std::int64_t free = std::visit([](const auto& s) { return free_bytes(s); }, stream);
    const std::int64_t need = counted_bytes(experiment.memory, stream);
    if (need <= free) return;
    const std::string ways = ways_to_fit(config, view, dataset, stream, free);
    throw ConfigError(fmt::format(
        "rank {} needs {} on its GPU, of which {} are free:\n{}{}{}", view.rank, in_binary_units(need),
        in_binary_units(free), memory_table(experiment.memory),
        ways.empty() ? "no change of one key makes it fit: use a smaller model, or more than one of training.dtype, "
                       "training.local_batch_size and training.seq_len\n"
                     : "what makes it fit, the cheapest first:\n",
        ways));
}

void check_stages(const Experiment& experiment, const Config& config, const RankView& view, const Dataset* dataset,
                  const Stream& stream) {
    if (!experiment.ramp.grows()) return;
    for (const BatchStage& stage : experiment.ramp.stages())
        try {
            if (stage.first_step < experiment.steps) plan_training(config, view, dataset, stream, stage.first_step);
        } catch (const ConfigError& error) {
            config.refuse(training_batch_ramp.name, fmt::format("a step of {} samples: {}", stage.batch, error.what()));
        }
}

} // namespace tessera
