// SPDX-License-Identifier: Apache-2.0
// From config to plan.
#include "core/run/experiment.hpp"

#include "core/data/options.hpp"
#include "core/graph/recompute.hpp"
#include "core/optimizers/optimizer.hpp"
#include "core/plan/passes.hpp"
#include "core/run/tolerances.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"
#include "kernels/nearest_name.hpp"
#include "parallel/communication/communicator.hpp"
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

Experiment common(const Config& config, SampleForm sample, const Stream& stream) {
    Experiment experiment;
    const std::int64_t seed = config.get(training_seed);
    if (seed < 0) config.refuse(training_seed.name, "must be at least 0");
    experiment.seed = static_cast<std::uint64_t>(seed);
    if (sample.is_text()) at_least_one(config, training_sequence);
    experiment.sizes.sample = std::move(sample);
    experiment.sizes.precision = precision_of(config, stream);
    return experiment;
}

struct AxisDegree {
    std::string_view name;
    const Key<std::int64_t>* key;
};

// The axes of the mesh from the outside in: neighbouring ranks exchange most.
constexpr std::array mesh_axes = {
    AxisDegree{"pipeline", &parallelism_pipeline},
    AxisDegree{"replica", &parallelism_replicate},
    AxisDegree{"data", &parallelism_data},
    AxisDegree{"expert", &parallelism_expert},
    AxisDegree{"context", &parallelism_context},
    AxisDegree{"spatial", &parallelism_spatial},
    AxisDegree{"spatial_width", &parallelism_spatial_width},
    AxisDegree{"tensor", &parallelism_tensor},
};

Recompute recomputation(const Config& config) {
    if (config.get(training_recompute) == "auto")
        config.refuse(training_recompute.name, "is for train, plan and verify: say none, selective or full");
    try {
        return recompute_named(config.get(training_recompute));
    } catch (const ConfigError& error) {
        config.refuse(training_recompute.name, error.what());
    }
}

std::int64_t bucket_bytes(const Config& config, const Stream& stream) {
    const double cap = config.get(parallelism_bucket);
    if (!(cap >= 0 && cap <= 1 << 20)) config.refuse(parallelism_bucket.name, "must be from 0 to 1048576");
    if (cap == 0 && std::holds_alternative<CpuStream>(stream)) return std::numeric_limits<std::int64_t>::max();
    return static_cast<std::int64_t>((cap == 0 ? 25 : cap) * (1 << 20));
}

int zero_stage(const Config& config) {
    const std::int64_t stage = config.get(parallelism_zero);
    if (stage < 0 || stage > 3) config.refuse(parallelism_zero.name, "must be 0, 1, 2 or 3");
    return static_cast<int>(stage);
}

// Where weights are gathered from other ranks while this one computes. In shared memory it copies them itself.
int prefetch(const Config& config, const Layout& layout, const Stream& stream) {
    const std::int64_t layers = config.get(parallelism_prefetch);
    if (layers < 0 || layers > 64) config.refuse(parallelism_prefetch.name, "must be from 0 to 64");
    return back_end_for(stream, layout.one_host) == BackEnd::shared_memory ? 0 : static_cast<int>(layers);
}

// Replicas of what is not shared out would be plain data parallelism by another name.
void check_replicas(const Config& config, const Layout& layout) {
    if (layout.replicas() == 1) return;
    if (zero_stage(config) == 0)
        config.refuse(parallelism_replicate.name, "replicas are of what ZeRO shares out: say parallelism.zero_stage, "
                                                  "or more of parallelism.data_parallel_degree instead");
    if (layout.shard_ranks() == 1)
        config.refuse(parallelism_replicate.name,
                      fmt::format("parallelism.zero_stage = {} would share out nothing: no ranks are left for "
                                  "parallelism.data_parallel_degree",
                                  zero_stage(config)));
}

// Whether context parallelism sends keys and values around a ring.
bool takes_ring(const Config& config, const Mesh& mesh) {
    const std::string method = config.get(parallelism_context_method);
    if (method != "ulysses" && method != "ring")
        config.refuse(parallelism_context_method.name,
                      no_such_name("method of context parallelism", method, {"ring", "ulysses"}));
    for (int axis = 0; axis < mesh.axis_count(); ++axis)
        if (mesh.axis(axis).name == "context") return method == "ring";
    return false;
}

void check_context(const Config& config, int ranks, bool ring) {
    const std::int64_t tokens = config.get(training_sequence), heads = config.get(model_heads);
    if (ring && tokens % (2 * ranks) != 0)
        config.refuse(
            training_sequence.name,
            fmt::format("{} tokens cannot be dealt out to {} ranks of context parallelism in {} equal chunks, "
                        "two for each, as \"ring\" wants",
                        tokens, ranks, 2 * ranks));
    if (!ring && tokens % ranks != 0)
        config.refuse(training_sequence.name, fmt::format("{} tokens cannot be shared out evenly over {} ranks of "
                                                          "context parallelism",
                                                          tokens, ranks));
    if (!ring && heads % ranks != 0)
        config.refuse(model_heads.name, fmt::format("{} heads cannot be shared out evenly over {} ranks of context "
                                                    "parallelism: parallelism.context_parallel_method = \"ring\" "
                                                    "shares out none",
                                                    heads, ranks));
}

void check_modes(const Config& config, const Mesh& mesh) {
    const bool text = reads_text(config);
    if (!text && config.get(parallelism_sequence))
        config.refuse(parallelism_sequence.name, "shares out a sequence, and samples here have none");
    for (int index = 0; index < mesh.axis_count(); ++index) {
        const MeshAxis& axis = mesh.axis(index);
        if (axis.name == "context" && !text)
            config.refuse(parallelism_context.name, "shares out a sequence, and samples here have none");
        if (axis.name == "context") check_context(config, axis.size, takes_ring(config, mesh));
        if (cuts_products(axis) && config.get(training_linear_dtype) == "f8")
            config.refuse(training_linear_dtype.name, fmt::format("\"f8\" has one scale for a whole tensor: no part of "
                                                                  "it can be rounded on the ranks of mesh axis '{}'",
                                                                  axis.name));
    }
}

// Which axis the pipeline is, and how it goes.
void add_pipeline(const Config& config, Layout& layout) {
    try {
        layout.schedule = schedule_named(config.get(parallelism_schedule));
    } catch (const ConfigError& error) {
        config.refuse(parallelism_schedule.name, error.what());
    }
    const bool interleaved = layout.schedule == ScheduleKind::interleaved;
    const std::int64_t chunks = at_least_one(config, parallelism_chunks);
    if (chunks > 1024) config.refuse(parallelism_chunks.name, "must be at most 1024");
    for (int axis = 0; axis < layout.mesh.axis_count(); ++axis)
        if (layout.mesh.axis(axis).name == "pipeline") layout.pipeline_axis = axis;
    if (layout.stages() == 1) return;
    layout.chunks_per_stage = interleaved ? static_cast<int>(chunks) : 1;
}

// Samples of a micro-batch go to the ranks of the expert axis and, on their way to the experts, of the context axis.
void check_rows(const Config& config, const Mesh& mesh, std::int64_t rows) {
    std::int64_t expert = 1, context = 1;
    for (int index = 0; index < mesh.axis_count(); ++index) {
        if (mesh.axis(index).name == "expert") expert = mesh.axis(index).size;
        if (mesh.axis(index).name == "context") context = mesh.axis(index).size;
    }
    if (expert == 1) return;
    if (config.get(model_experts) == 0)
        config.refuse(parallelism_expert.name, "the model has no experts to share out: set model.moe_experts");
    if (rows % (expert * context) != 0)
        config.refuse(training_local_batch.name,
                      fmt::format("micro-batches of {} cannot be shared out evenly over {} ranks of {} parallelism",
                                  rows, expert * context, context == 1 ? "expert" : "expert and context"));
}

// A model that reads no images has none to share out.
void check_images(const Config& config, const Graph& graph, const Mesh& mesh) {
    const bool reads_images =
        std::ranges::any_of(graph.values(), [](const Value& value) { return value.role == "image"; });
    for (const auto& [name, key] : mesh_axes)
        for (int index = 0; index < mesh.axis_count() && !reads_images; ++index)
            if (name.starts_with("spatial") && mesh.axis(index).name == name && mesh.axis(index).size > 1)
                config.refuse(key->name, fmt::format("the model reads no images that {} ranks could share out",
                                                     mesh.axis(index).size));
}

Layout make_layout(const Config& config, const RankView& view, std::int64_t micro_batches, const Stream& stream) {
    Layout layout;
    layout.mesh = make_mesh(config, view.ranks);
    layout.data_axis = layout.mesh.axis_named("data");
    for (int axis = 0; axis < layout.mesh.axis_count(); ++axis)
        if (layout.mesh.axis(axis).name == "replica") layout.replica_axis = axis;
    check_replicas(config, layout);
    for (int axis = 0; axis < layout.mesh.axis_count(); ++axis)
        layout.strategies.push_back(make_strategy(layout.mesh.axis(axis).name, layout.mesh.axis(axis),
                                                  {.zero_stage = zero_stage(config),
                                                   .sequence_parallel = config.get(parallelism_sequence),
                                                   .ring = takes_ring(config, layout.mesh)}));
    layout.micro_batches = micro_batches;
    add_pipeline(config, layout);
    check_modes(config, layout.mesh);
    layout.one_host = view.one_host && config.get(parallelism_shared_memory);
    layout.prefetch = prefetch(config, layout, stream);
    layout.reproducible = config.get(run_reproducible);
    layout.bucket_bytes = bucket_bytes(config, stream);
    return layout;
}

// Roles may say that a weight is shared out where it can be: not one that can is no tensor parallelism.
void check_tensor(const Config& config, const Program& program, const PlacedGraph& placed) {
    const Mesh& mesh = program.layout.mesh;
    for (int axis = 0; axis < mesh.axis_count(); ++axis) {
        if (mesh.axis(axis).name != "tensor") continue;
        const auto is_shared = [&](ValueId id) {
            return placed.placements.produced[static_cast<std::size_t>(id)][static_cast<std::size_t>(axis)] !=
                   Placement::replicate();
        };
        if (std::ranges::none_of(program.model.graph.of_kind(ValueKind::parameter), is_shared))
            config.refuse(parallelism_tensor.name,
                          "no two neighbouring layers of this model can be shared out evenly over so many ranks");
    }
}

// The validation split in whole micro-batches; what is left over at its end is not evaluated.
std::int64_t count_evaluation_batches(const Config& config, const Dataset& dataset, const ModelSizes& sizes,
                                      int ranks) {
    const std::int64_t most = config.get(evaluate_batches);
    const std::int64_t samples = dataset.samples(Split::validation);
    if (samples == 0) return 0;
    const std::int64_t windows = (samples - 1) / sizes.sample.units + 1;
    std::int64_t batches = windows / sizes.batch;
    if (most > 0) batches = std::min(batches, most);
    if (batches < ranks)
        throw ConfigError(
            fmt::format("the validation split has {} {}: {} ranks with micro-batches of {} need at least {}", windows,
                        sizes.sample.is_text() ? fmt::format("windows of {} tokens", sizes.sample.units) : "samples",
                        ranks, sizes.batch, ranks * sizes.batch));
    return batches;
}

// Training and evaluation take turns in the same memory, so each weight must lie at one place in both.
void check_same_weights(const Program& train, const Program& evaluate) {
    if (train.plan.values.empty()) return; // evaluation alone
    for (const ValueId id : evaluate.model.graph.of_kind(ValueKind::parameter)) {
        const Value& value = evaluate.model.graph.value(id);
        const PlannedValue& here = evaluate.plan.value(id);
        const PlannedValue& there = train.plan.value(train.model.graph.named(value.name));
        if (here.offset != there.offset || here.local != there.local)
            throw InternalError(fmt::format("'{}' lies elsewhere in evaluation than in training", value.name));
    }
}

CutGraph cut_evaluation(const Config& config, const RankView& view, const Stream& stream, Experiment& experiment) {
    Program& program = experiment.evaluate;
    program.model = build_model(config, experiment.sizes, Purpose::evaluate);
    program.layout = make_layout(config, view, experiment.evaluation_batches, stream);
    check_images(config, program.model.graph, program.layout.mesh);
    return cut_graph(program.model.graph, program.layout);
}

void add_evaluation(const CutGraph& graph, int rank, const Stream& stream, Experiment& experiment) {
    Program& program = experiment.evaluate;
    program.plan = make_plan(graph, program.layout, rank, stream);
    check_same_weights(experiment.train, program);
    MemoryNeed need = program.plan.memory; // for any number of micro-batches: it is not known without the data
    need[MemoryKind::gradients] = program.plan.slot_bytes * slots_needed(std::int64_t{1} << 40);
    experiment.memory.grow_to(need);
    experiment.memory[MemoryKind::data] +=
        Loader::buffer_bytes(experiment.sizes.sample.fields, experiment.evaluation_loader());
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

} // namespace

Mesh make_mesh(const Config& config, int ranks) {
    std::vector<MeshAxis> axes;
    std::vector<std::string> factors;
    std::int64_t product = 1;
    const Key<std::int64_t>* rest = nullptr;  // the axis that takes what is left
    const Key<std::int64_t>* given = nullptr; // one that says how many ranks it takes
    for (const auto& [name, key] : mesh_axes) {
        const std::int64_t degree = config.get(*key);
        if ((degree < 1 && degree != -1) || degree > std::numeric_limits<int>::max())
            config.refuse(key->name, "must be at least 1, or -1 for what is left");
        if (degree == -1 && rest != nullptr)
            config.refuse(key->name, fmt::format("what is left goes to {} already", rest->name));
        axes.push_back({std::string(name), static_cast<int>(degree)});
        if (degree == -1) {
            rest = key;
            continue;
        }
        if (degree > 1 || given == nullptr) given = key;
        product = std::min(product * degree, std::int64_t{1} << 31);
        factors.push_back(fmt::format("{} {}", key->name.substr(key->name.find('.') + 1), degree));
    }
    if (rest == nullptr ? product != ranks : ranks % product != 0)
        config.refuse(given->name, fmt::format("the mesh has {} = {} ranks{}, but {} run", fmt::join(factors, " x "),
                                               product, rest == nullptr ? "" : " or a multiple", ranks));
    for (MeshAxis& axis : axes)
        if (axis.size == -1) axis.size = ranks / static_cast<int>(product);
    std::erase_if(axes, [](const MeshAxis& axis) { return axis.size == 1 && axis.name != "data"; });
    return Mesh(std::move(axes));
}

LoaderOptions Experiment::train_loader(std::int64_t first_step) const {
    return {.split = Split::train,
            .micro_batch_size = batch.micro_batch,
            .first_micro_batch = train.plan.share.begin,
            .micro_batches = train.plan.share.size(),
            .stride = train.plan.stride,
            .micro_batches_per_step = batch.micro_batches,
            .first_step = first_step,
            .end_step = std::max(steps, first_step)}; // a run may resume beyond its end
}

LoaderOptions Experiment::evaluation_loader() const {
    return {.split = Split::validation,
            .micro_batch_size = sizes.batch,
            .first_micro_batch = evaluate.plan.share.begin,
            .micro_batches = evaluate.plan.share.size(),
            .micro_batches_per_step = evaluation_batches,
            .first_step = 0,
            .end_step = 1};
}

TrainingPlans::TrainingPlans(const Config& config, int ranks, bool one_host, const Dataset* dataset,
                             const Stream& stream, bool evaluates)
    : stream_(stream), shared_(common(config, form_of(config, dataset), stream)) {
    const RankView view{0, ranks, one_host};
    Experiment& experiment = shared_;
    experiment.steps = at_least_one(config, training_steps);
    Program& program = experiment.train;
    program.layout = make_layout(config, view, 1, stream);
    program.layout.rounds =
        program.layout.strategies[static_cast<std::size_t>(program.layout.data_axis)]->sums_every_micro_batch();
    experiment.batch = solve_batch(config, program.layout.data_ranks());
    program.layout.micro_batches = experiment.batch.micro_batches;
    experiment.sizes.batch = experiment.batch.micro_batch;
    check_rows(config, program.layout.mesh, experiment.sizes.batch);
    experiment.sizes.units_per_step = experiment.batch.global * experiment.sizes.sample.units;

    program.model = build_model(config, experiment.sizes, Purpose::train);
    check_images(config, program.model.graph, program.layout.mesh);
    const std::vector<ValueId> gradients =
        differentiate(program.model.graph, program.model.loss(), program.model.losses_beside);
    experiment.guard = append_guard(program.model.graph, config, program.model.loss_scale.has_value());
    experiment.gradient_norm = append_optimizer(program.model.graph, gradients, *make_optimizer(config),
                                                {.max_norm = config.get(training_max_norm),
                                                 .loss_scale = program.model.loss_scale,
                                                 .guard = experiment.guard ? &*experiment.guard : nullptr,
                                                 .loss = program.model.loss()});
    recompute(program.model.graph, recomputation(config));
    train_ = cut_graph(program.model.graph, program.layout);
    check_tensor(config, program, *train_.placed);
    if (!evaluates) return;
    if (dataset != nullptr)
        experiment.evaluation_batches =
            count_evaluation_batches(config, *dataset, experiment.sizes, program.layout.data_ranks());
    else if (has_validation(config))
        experiment.evaluation_batches =
            program.layout.data_ranks(); // what it needs does not depend on how long it goes on
    if (experiment.evaluation_batches > 0) evaluate_ = cut_evaluation(config, view, stream, experiment);
}

Experiment TrainingPlans::of(int rank) const {
    Experiment experiment = shared_;
    Program& program = experiment.train;
    program.plan = make_plan(train_, program.layout, rank, stream_);
    experiment.memory = program.plan.memory;
    experiment.memory[MemoryKind::data] =
        Loader::buffer_bytes(experiment.sizes.sample.fields, experiment.train_loader(0));
    if (experiment.evaluation_batches > 0) add_evaluation(evaluate_, rank, stream_, experiment);
    return experiment;
}

Experiment plan_training(const Config& config, const RankView& view, const Dataset* dataset, const Stream& stream) {
    return TrainingPlans(config, view.ranks, view.one_host, dataset, stream).of(view.rank);
}

Experiment plan_evaluation(const Config& config, const RankView& view, const Dataset& dataset, const Stream& stream) {
    Experiment experiment = common(config, dataset.form(), stream);
    experiment.sizes.batch = evaluation_rows(config);
    const Layout layout = make_layout(config, view, 1, stream);
    check_rows(config, layout.mesh, experiment.sizes.batch);
    experiment.evaluation_batches = count_evaluation_batches(config, dataset, experiment.sizes, layout.data_ranks());
    if (experiment.evaluation_batches == 0) throw ConfigError("the data has no validation split to evaluate on");
    add_evaluation(cut_evaluation(config, view, stream, experiment), view.rank, stream, experiment);
    return experiment;
}

Experiment plan_generation(const Config& config, std::int64_t vocabulary, const Stream& stream) {
    const std::int64_t tokens = at_least_one(config, training_sequence);
    Experiment experiment = common(config, text_form(tokens, vocabulary), stream);
    Program& program = experiment.generate;
    program.model = build_model(config, experiment.sizes, Purpose::generate);
    program.layout.mesh = Mesh({{"data", 1}});
    program.layout.strategies.push_back(make_strategy("data", {"data", 1}));
    program.plan = make_plan(program.model.graph, program.layout, 0, stream);
    experiment.memory = program.plan.memory;
    return experiment;
}

} // namespace tessera
