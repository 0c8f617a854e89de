// SPDX-License-Identifier: Apache-2.0
// From config to plan.
#include "core/run/experiment.hpp"

#include "core/checkpoint/walk.hpp"
#include "core/data/options.hpp"
#include "core/graph/recompute.hpp"
#include "core/layered_model.hpp"
#include "core/optimizers/optimizer.hpp"
#include "core/optimizers/weight_average.hpp"
#include "core/plan/passes.hpp"
#include "core/run/rollback.hpp"
#include "core/run/snapshot.hpp"
#include "core/run/step_repeat.hpp"
#include "core/run/validation_watch.hpp"
#include "core/run/weights.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"
#include "kernels/nearest_name.hpp"
#include "parallel/strategies/catalog.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace tessera {
namespace {

std::int64_t at_least_one(const Config& config, const Key<std::int64_t>& key) {
    const std::int64_t value = config.get(key);
    if (value < 1) config.refuse(key.name, "must be at least 1");
    return value;
}

Precision precision_of(const Config& config, const Stream& stream) {
    Precision precision;
    const std::string dtype = config.get(training_dtype);
    if (dtype != "f32" && dtype != "bf16" && dtype != "f16" && dtype != "tf32")
        config.refuse(training_dtype.name,
                      no_such_name("dtype of a computation", dtype, {"bf16", "f16", "f32", "tf32"}));
    if (dtype == "tf32" && std::holds_alternative<CpuStream>(stream))
        config.refuse(training_dtype.name, "is a way that GPUs multiply: on CPUs say f32, bf16 or f16");
    precision.compute = dtype == "tf32" ? DType::f32 : dtype_named(dtype);
    const std::string linear = config.get(training_linear_dtype);
    if (linear != "same" && linear != "f8")
        config.refuse(training_linear_dtype.name, no_such_name("dtype of linear layers", linear, {"f8", "same"}));
    precision.linear_f8 = linear == "f8";
    if (precision.linear_f8 && dtype != "bf16")
        config.refuse(training_linear_dtype.name,
                      fmt::format("\"f8\" wants training.dtype = \"bf16\", not \"{}\"", dtype));
    const std::string rounding = config.get(training_weight_rounding);
    if (rounding != "nearest" && rounding != "stochastic")
        config.refuse(training_weight_rounding.name, no_such_name("rounding", rounding, {"nearest", "stochastic"}));
    precision.stochastic_weights = rounding == "stochastic";
    if (precision.stochastic_weights && dtype != "bf16")
        config.refuse(training_weight_rounding.name,
                      fmt::format("\"stochastic\" wants training.dtype = \"bf16\", not \"{}\"", dtype));
    return precision;
}

Experiment common(const Config& config, SampleForm sample, int ranks, const Stream& stream) {
    Experiment experiment;
    const std::int64_t seed = config.get(training_seed);
    if (seed < 0) config.refuse(training_seed.name, "must be at least 0");
    experiment.seed = static_cast<std::uint64_t>(seed);
    if (sample.is_text()) at_least_one(config, training_sequence);
    const auto* cpu = std::get_if<CpuStream>(&stream);
    experiment.augmentation = augmentation_in(config, sample, experiment.seed);
    experiment.sizes.sample = std::move(sample);
    experiment.prefetch = prefetch_in(config);
    experiment.loader_threads = loader_threads_in(config, ranks, cpu == nullptr ? 1 : cpu->threads());
    experiment.sizes.precision = precision_of(config, stream);
    return experiment;
}

Recompute recomputation(const Config& config) {
    if (config.get(training_recompute) == "auto")
        config.refuse(training_recompute.name, "is for train, plan and verify: say none, selective or full");
    try {
        return recompute_named(config.get(training_recompute));
    } catch (const ConfigError& error) {
        config.refuse(training_recompute.name, error.what());
    }
}

bool carries_states(const Config& config) { return config.get(data_order) == "stream" && is_recurrent(config); }

// All samples of the validation split, or metrics.evaluate_batches of its micro-batches. What is left over behind whole
// micro-batches is a smaller one, but where rows go on from step to step, or ranks share out the rows in equal parts.
void count_evaluation_batches(const Config& config, const Dataset& dataset, const Mesh& mesh, Experiment& experiment) {
    const std::int64_t most = config.get(evaluate_batches);
    if (dataset.samples(Split::validation) == 0) return;
    const std::int64_t windows = SampleOrder(order_options(config, dataset, Split::validation, 0, 0)).per_epoch();
    const std::int64_t least = experiment.sizes.streams > 0 ? experiment.sizes.batch : rows_together(mesh);
    experiment.evaluation_rows = std::min(experiment.sizes.batch, windows / least * least);
    if (experiment.evaluation_rows == 0)
        throw ConfigError(fmt::format(
            "the validation split has {} {}, which make no micro-batch of {} (training.local_batch_size)", windows,
            experiment.sizes.sample.is_text() ? fmt::format("windows of {} tokens", experiment.sizes.sample.units)
                                              : "samples",
            least));
    experiment.evaluation_batches = windows / experiment.evaluation_rows;
    experiment.rest_rows = windows % experiment.evaluation_rows / least * least;
    if (experiment.sizes.streams == 0 && (most == 0 || experiment.evaluation_batches < most)) return;
    experiment.rest_rows = 0;
    if (most > 0) experiment.evaluation_batches = std::min(experiment.evaluation_batches, most);
}

// The same samples source by source, each of them in whole micro-batches and what is left over, so that it has a loss
// of its own. A source too small for rows that ranks share out is left out.
void count_in_sources(const Config& config, const Dataset& dataset, const Mesh& mesh, Experiment& experiment) {
    if (experiment.sizes.streams > 0 || experiment.evaluation_batches == 0) return;
    const SampleOrderOptions options = order_options(config, dataset, Split::validation, 0, 0);
    if (options.sources.empty()) return;
    const std::int64_t least = rows_together(mesh);
    const std::int64_t samples = experiment.evaluation_batches * experiment.evaluation_rows + experiment.rest_rows;
    const std::vector<SampleOrder::Progress> progress = SampleOrder(options).progress(samples);
    std::int64_t first = 0;
    for (std::size_t i = 0; i < options.sources.size(); ++i) {
        SourceEvaluation part{.source = options.sources[i], .first = first};
        part.rows = std::min(experiment.sizes.batch, progress[i].samples / least * least);
        if (part.rows == 0) continue;
        part.batches = progress[i].samples / part.rows;
        part.rest_rows = progress[i].samples % part.rows / least * least;
        first += part.batches * part.rows + part.rest_rows;
        experiment.evaluate_sources.push_back(std::move(part));
    }
    if (first > 0) experiment.rest_rows = 0; // it is among them
}

// Where states are carried on, in steps of no more micro-batches than those of training.
void count_evaluation(const Config& config, const Dataset& dataset, const Mesh& mesh, std::int64_t micro_batches,
                      Experiment& experiment) {
    count_evaluation_batches(config, dataset, mesh, experiment);
    count_in_sources(config, dataset, mesh, experiment);
    const std::int64_t batches = experiment.evaluation_batches;
    if (experiment.sizes.streams == 0 || batches == 0) return;
    experiment.evaluation_steps = (batches - 1) / micro_batches + 1;
    experiment.evaluation_batches = batches / experiment.evaluation_steps;
}

// Programs take turns in the same memory, so each weight must lie at one place in all.
void check_same_weights(const Program& train, const Program& evaluate) {
    if (train.plan.values.empty()) return; // evaluation alone
    for (const ValueId id : persistent_values(evaluate.model.graph)) {
        const Value& value = evaluate.model.graph.value(id);
        if (is_optimizer_state(value.name)) continue; // its own: put back (evaluation.cpp)
        const PlannedValue& here = evaluate.plan.value(id);
        const PlannedValue& there = train.plan.value(train.model.graph.named(value.name));
        if (here.offset != there.offset || here.local != there.local)
            throw InternalError(fmt::format("'{}' lies elsewhere in evaluation than in training", value.name));
    }
}

// Of so many micro-batches and rows, the first of which is this sample.
CutGraph cut_evaluation(const Config& config, const RankView& view, const Stream& stream, const Experiment& experiment,
                        std::int64_t batches, std::int64_t rows, std::int64_t first_sample, Program& program) {
    ModelSizes sizes = experiment.sizes;
    sizes.batch = rows;
    sizes.streams = experiment.evaluation_streams();
    sizes.steps_per_epoch = 0;
    sizes.samples_ahead = first_sample;
    sizes.samples_evaluated = batches * rows;
    program.model = build_model(config, sizes, Purpose::evaluate);
    program.layout = make_layout(config, view, batches, stream);
    check_images(config, program.model.graph, program.layout.mesh);
    return cut_graph(program.model.graph, program.layout);
}

EvaluationCuts cut_evaluations(const Config& config, const RankView& view, const Stream& stream,
                               Experiment& experiment) {
    const auto cut = [&](std::int64_t batches, std::int64_t rows, std::int64_t first_sample, Program& program) {
        return rows == 0 ? CutGraph()
                         : cut_evaluation(config, view, stream, experiment, batches, rows, first_sample, program);
    };
    const std::int64_t batches = experiment.evaluation_batches, rows = experiment.evaluation_rows;
    EvaluationCuts cuts;
    if (batches == 0) return cuts;
    cuts.whole = cut(batches, rows, 0, experiment.evaluate);
    cuts.rest = cut(1, experiment.rest_rows, batches * rows, experiment.evaluate_rest);
    for (SourceEvaluation& part : experiment.evaluate_sources) {
        cuts.whole_sources.push_back(cut(part.batches, part.rows, part.first, part.whole));
        cuts.rest_sources.push_back(cut(1, part.rest_rows, part.first + part.batches * part.rows, part.rest));
    }
    return cuts;
}

void plan_beside_training(const CutGraph& graph, int rank, const Stream& stream, Program& program,
                          Experiment& experiment) {
    program.plan = make_plan(graph, program.layout, rank, stream);
    check_same_weights(experiment.train, program);
    MemoryNeed need = program.plan.memory; // for any number of micro-batches: it is not known without the data
    need[MemoryKind::gradients] = program.plan.slot_bytes * slots_needed(std::int64_t{1} << 40);
    experiment.memory.grow_to(need);
}

void add_evaluations(const EvaluationCuts& cuts, int rank, const Stream& stream, Experiment& experiment) {
    plan_beside_training(cuts.whole, rank, stream, experiment.evaluate, experiment);
    const auto add = [&](const CutGraph& graph, std::int64_t rows, Program& program) {
        if (rows == 0) return;
        plan_beside_training(graph, rank, stream, program, experiment);
        check_same_weights(experiment.evaluate, program);
    };
    add(cuts.rest, experiment.rest_rows, experiment.evaluate_rest);
    for (std::size_t i = 0; i < experiment.evaluate_sources.size(); ++i) {
        SourceEvaluation& part = experiment.evaluate_sources[i];
        add(cuts.whole_sources[i], part.rows, part.whole);
        add(cuts.rest_sources[i], part.rest_rows, part.rest);
    }
    experiment.memory[MemoryKind::data] += experiment.evaluation_loader_bytes();
}

// Samples as the loader gives them.
ModelSizes sizes_of_training(const Experiment& experiment) {
    ModelSizes sizes = experiment.sizes;
    sizes.sample.fields = experiment.augmentation.fields_given(sizes.sample.fields);
    sizes.sample.soft_labels = experiment.augmentation.mixes();
    return sizes;
}

SampleForm form_of(const Config& config, const Dataset* dataset) {
    if (dataset != nullptr) return dataset->form();
    if (auto form = form_without_data(config, reads_text(config) ? at_least_one(config, training_sequence) : 1))
        return *std::move(form);
    if (reads_text(config))
        config.refuse(data_vocabulary.name, "without its data the vocabulary is not known: say how many tokens it has");
    config.refuse(data_reader.name, "without the data the form of its samples is not known: say data.classes and "
                                    "data.image_shape or data.features");
}

// The batches of the stage that a step is of.
void take_stage(const Config& config, int data_ranks, std::int64_t step, Experiment& experiment) {
    experiment.batch = solve_batch(config, data_ranks);
    experiment.ramp = batch_ramp(config, experiment.batch);
    if (experiment.ramp.grows() && config.get(data_order) == "stream")
        config.refuse(training_batch_ramp.name, "each row of a step reads a part of the text on and on (data.order = "
                                                "\"stream\"), so that their number stays as it is");
    experiment.stage = experiment.ramp.stage_of(step);
    experiment.batch.global = experiment.stage.batch;
    experiment.batch.micro_batches = experiment.stage.batch / experiment.batch.micro_batch;
    experiment.sizes.samples_ahead =
        experiment.stage.first_sample - experiment.stage.first_step * experiment.stage.batch;
    experiment.sizes.batch = experiment.evaluation_rows = experiment.batch.micro_batch;
    experiment.sizes.units_per_step = experiment.batch.global * experiment.sizes.sample.units;
}

// Rows that go on from step to step. Without `dataset` nobody knows how long an epoch is.
void take_streams(const Config& config, const Dataset* dataset, Experiment& experiment) {
    const std::int64_t streams = experiment.sizes.streams = experiment.batch.global;
    if (dataset == nullptr) return;
    experiment.sizes.steps_per_epoch =
        SampleOrder(order_options(config, *dataset, Split::train, experiment.seed, streams)).per_epoch() / streams;
}

} // namespace

LoaderOptions Experiment::train_loader(std::int64_t first_step) const {
    return {.split = Split::train,
            .micro_batch_size = batch.micro_batch,
            .first_micro_batch = train.plan.share.begin,
            .micro_batches = train.plan.share.size(),
            .stride = train.plan.stride,
            .micro_batches_per_step = batch.micro_batches,
            .first_step = first_step,
            .end_step = std::max(std::min(steps, stage.end_step), first_step), // a run may resume beyond its end
            .first_sample = ramp.samples_before(first_step),
            .prefetch = prefetch,
            .threads = loader_threads,
            .augmentation = augmentation};
}

LoaderOptions Experiment::evaluation_loader() const {
    LoaderOptions options = loader_for(evaluate, evaluation_rows, evaluation_batches, 0);
    options.end_step = evaluation_steps;
    return options;
}

LoaderOptions Experiment::rest_loader() const {
    return loader_for(evaluate_rest, rest_rows, 1, evaluation_batches * evaluation_rows);
}

std::int64_t Experiment::evaluation_loader_bytes() const {
    const auto bytes = [&](const LoaderOptions& loader) { return Loader::buffer_bytes(sizes.sample.fields, loader); };
    std::int64_t most = bytes(evaluation_loader());
    if (rest_rows > 0) most = std::max(most, bytes(rest_loader()));
    for (const SourceEvaluation& part : evaluate_sources)
        for (const std::int64_t rows : {part.rows, part.rest_rows})
            if (rows > 0) most = std::max(most, bytes(loader_for(part.whole, rows, 1, 0)));
    return most;
}

LoaderOptions Experiment::loader_for(const Program& program, std::int64_t rows, std::int64_t batches,
                                     std::int64_t first_sample) const {
    return {.split = Split::validation,
            .micro_batch_size = rows,
            .first_micro_batch = program.plan.share.begin,
            .micro_batches = program.plan.share.size(),
            .micro_batches_per_step = batches,
            .first_step = 0,
            .end_step = 1,
            .first_sample = first_sample,
            .prefetch = prefetch,
            .threads = loader_threads};
}

TrainingPlans::TrainingPlans(const Config& config, int ranks, bool one_host, const Dataset* dataset,
                             const Stream& stream, bool evaluates, std::int64_t step)
    : stream_(stream), config_(config), shared_(common(config, form_of(config, dataset), ranks, stream)) {
    const RankView view{0, ranks, one_host};
    Experiment& experiment = shared_;
    experiment.steps = at_least_one(config, training_steps);
    Program& program = experiment.train;
    program.layout = make_layout(config, view, 1, stream);
    program.layout.rounds =
        program.layout.strategies[static_cast<std::size_t>(program.layout.data_axis)]->sums_every_micro_batch();
    take_stage(config, program.layout.data_ranks(), step, experiment);
    program.layout.micro_batches = experiment.batch.micro_batches;
    check_rows(config, program.layout.mesh, experiment.sizes.batch);
    if (carries_states(config)) take_streams(config, dataset, experiment);
    program.model = build_model(config, sizes_of_training(experiment), Purpose::train);
    check_images(config, program.model.graph, program.layout.mesh);
    const std::vector<ParameterSettings> settings = apply_parameter_groups(program.model.graph, config);
    const std::vector<ValueId> gradients =
        differentiate(program.model.graph, program.model.loss(), program.model.losses_beside);
    experiment.guard = append_guard(program.model.graph, config, program.model.loss_scale.has_value());
    experiment.gradient_norm = append_optimizer(program.model.graph, gradients, *make_optimizer(config),
                                                {.max_norm = config.get(training_max_norm),
                                                 .loss_scale = program.model.loss_scale,
                                                 .guard = experiment.guard ? &*experiment.guard : nullptr,
                                                 .loss = program.model.loss(),
                                                 .counted = program.model.counted,
                                                 .units_per_step = experiment.sizes.units_per_step,
                                                 .running = program.model.running,
                                                 .carried = program.model.carried,
                                                 .settings = settings,
                                                 .ema_decay = ema_decay(config)});
    experiment.validation_state = append_validation_state(program.model.graph, config);
    recompute(program.model.graph, recomputation(config));
    train_ = cut_graph(program.model.graph, program.layout);
    check_tensor(config, program.model.graph, program.layout.mesh, *train_.placed);
    if (!evaluates) return;
    if (dataset != nullptr)
        count_evaluation(config, *dataset, program.layout.mesh, experiment.batch.micro_batches, experiment);
    else if (has_validation(config)) // what it needs does not depend on how long it goes on
        experiment.evaluation_batches = program.layout.data_ranks();
    evaluations_ = cut_evaluations(config, view, stream, experiment);
}

Experiment TrainingPlans::of(int rank) const {
    Experiment experiment = shared_;
    Program& program = experiment.train;
    program.plan = make_plan(train_, program.layout, rank, stream_);
    experiment.memory = program.plan.memory;
    experiment.memory[MemoryKind::data] =
        Loader::buffer_bytes(experiment.sizes.sample.fields, experiment.train_loader(0)) +
        StepRepeat::bytes_for(config_, experiment);
    experiment.memory[MemoryKind::checkpoint] = Rollback::bytes_for(config_, program);
    if (keeps_copy(config_, stream_))
        experiment.memory[MemoryKind::checkpoint] +=
            Snapshot::bytes_for(parts_to_save(program, planned(program), rank));
    if (experiment.evaluation_batches > 0) add_evaluations(evaluations_, rank, stream_, experiment);
    return experiment;
}

Experiment plan_training(const Config& config, const RankView& view, const Dataset* dataset, const Stream& stream,
                         std::int64_t step) {
    return TrainingPlans(config, view.ranks, view.one_host, dataset, stream, true, step).of(view.rank);
}

Experiment plan_evaluation(const Config& config, const RankView& view, const Dataset& dataset, const Stream& stream) {
    Experiment experiment = common(config, dataset.form(), view.ranks, stream);
    experiment.sizes.batch = evaluation_rows(config);
    const Mesh mesh = make_mesh(config, view.ranks);
    check_rows(config, mesh, experiment.sizes.batch);
    const std::int64_t micro_batches =
        std::max<std::int64_t>(1, config.get(training_global_batch) / experiment.sizes.batch);
    if (carries_states(config)) experiment.sizes.streams = micro_batches * experiment.sizes.batch;
    count_evaluation(config, dataset, mesh, micro_batches, experiment);
    if (experiment.evaluation_batches == 0) throw ConfigError("the data has no validation split to evaluate on");
    add_evaluations(cut_evaluations(config, view, stream, experiment), view.rank, stream, experiment);
    return experiment;
}

Experiment plan_generation(const Config& config, std::int64_t vocabulary, const Stream& stream,
                           const AnswerSizes& answer) {
    const std::int64_t tokens = at_least_one(config, training_sequence);
    const bool by_token = is_recurrent(config);
    SampleForm form = text_form(by_token ? 1 : tokens, vocabulary);
    if (answer.source > 0) {
        form.fields = {{"source", {answer.source}, DType::i32}, {"targets", {answer.target}, DType::i32}};
        form.units = answer.target;
    }
    Experiment experiment = common(config, std::move(form), 1, stream);
    experiment.sizes.streams = by_token ? 1 : 0;
    Program& program = experiment.generate;
    program.model = build_model(config, experiment.sizes, Purpose::generate);
    program.layout.mesh = Mesh({{"data", 1}});
    program.layout.strategies.push_back(make_strategy("data", {"data", 1}));
    program.plan = make_plan(program.model.graph, program.layout, 0, stream);
    experiment.memory = program.plan.memory;
    return experiment;
}

} // namespace tessera
