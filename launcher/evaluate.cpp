// SPDX-License-Identifier: Apache-2.0
// `tessera evaluate`: the loss of a checkpoint on its validation split.
#include "core/run/evaluation.hpp"
#include "core/run/weights.hpp"
#include "core/visible.hpp"
#include "launcher/setup.hpp"

#include <cmath>
#include <fmt/core.h>

namespace tessera {
namespace {

void print(const EvaluationRecord::Table& table) {
    fmt::print("{}:\n", table.name);
    for (std::size_t i = 0; i < table.counts.size(); ++i)
        fmt::print("{:>8}{}", table.counts[i], (i + 1) % static_cast<std::size_t>(table.columns) == 0 ? "\n" : " ");
}

void print(const EvaluationRecord::Source& source, std::string_view unit) {
    fmt::print("source '{}'  validation loss: {:.6f}", visible(source.name), source.loss);
    for (const auto& [name, value] : source.told)
        fmt::print("  {}: {:.6f}", name, value);
    fmt::print("  {}s: {}\n", unit, source.units);
}

int run_evaluate(const Arguments& arguments, Process& process) {
    World& world = start_world(process);
    const Checkpoint checkpoint = open_checkpoint(arguments.words()[0]);
    Config config = config_of(checkpoint, {arguments.words().begin() + 1, arguments.words().end()});
    Stream stream = make_stream(config, &world);
    Stream host = make_host_stream(stream);
    Groups groups(world, make_mesh(config, world.size()), stream, config.get(parallelism_shared_memory), SumOrder::tree,
                  config.get(run_share_gpus));
    const std::unique_ptr<Dataset> dataset = open_data(config, metadata_of(checkpoint, "tokenizer"));
    const Experiment experiment = plan_evaluation(config, view_of(world), *dataset, stream);
    const bool of_averages = Evaluation::is_of_averages(config) && has_averages(checkpoint);
    const WeightsOf which = of_averages ? WeightsOf::average : WeightsOf::last_step;
    config.refuse_unread("command line"); // the other keys are the training run's
    const Program& program = experiment.evaluate;
    const Memory memory(experiment.memory, program.layout, groups, stream);
    const Executor executor(program.layout, program.plan, memory, groups, stream);
    restore_tensors(checkpoint, program, memory_of(executor), stream, which);
    const EvaluationRecord record =
        Evaluation({config, *dataset, groups, stream, host}, experiment, memory).run(checkpoint.step());
    if (world.rank() != 0) return 0;
    fmt::print("step: {}{}  validation loss: {:.6f}", record.step, of_averages ? ", averaged weights" : "",
               record.loss);
    for (const auto& [name, value] : record.told)
        fmt::print("  {}: {:.6f}", name, value);
    if (record.unit == "token") fmt::print("  perplexity: {:.4f}", std::exp(record.loss));
    fmt::print("  {}s: {}\n", record.unit, record.units);
    for (const EvaluationRecord::Source& source : record.sources)
        print(source, record.unit);
    for (const EvaluationRecord::Table& table : record.tables)
        print(table);
    return 0;
}

} // namespace

Command evaluate_command() {
    return {"evaluate",
            "loss of a checkpoint on the validation split",
            {"evaluate CHECKPOINT|RUN [section.key=value …]",
             R"(Loads a checkpoint, or the newest one of a run's folder, with the config it was
trained with, and prints the mean loss per token or sample, and the perplexity
or accuracy, on the validation split, and what metrics.evaluate names. Runs on
any number of ranks, with the same result. Where training.ema_decay keeps the
weights' average, that is evaluated, as in training; or, with
metrics.evaluate_ema=false, the weights themselves.

Examples
  tessera evaluate runs/quickstart
  mpirun -n 2 tessera evaluate runs/quickstart data.validation_files='["other.txt"]'
)",
             {},
             1,
             1000},
            run_evaluate};
}

} // namespace tessera
