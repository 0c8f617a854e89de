// SPDX-License-Identifier: Apache-2.0
// Mesh, layout, and the sentences that refuse them.
#include "core/run/parallelism.hpp"

#include "core/data/options.hpp"
#include "core/plan/passes.hpp"
#include "core/run/experiment.hpp"
#include "core/run/tolerances.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "parallel/communication/communicator.hpp"
#include "parallel/strategies/catalog.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <ranges>

namespace tessera {
namespace {

struct AxisDegree {
    std::string_view name;
    const Key<std::int64_t>* key;
};

// The axes of the mesh from the outside in: neighbouring ranks exchange most.
constexpr std::array mesh_axes = {
    AxisDegree{"pipeline", &parallelism_pipeline}, AxisDegree{"replica", &parallelism_replicate},
    AxisDegree{"data", &parallelism_data},         AxisDegree{"sample", &parallelism_sample},
    AxisDegree{"expert", &parallelism_expert},     AxisDegree{"context", &parallelism_context},
    AxisDegree{"spatial", &parallelism_spatial},   AxisDegree{"spatial_width", &parallelism_spatial_width},
    AxisDegree{"tensor", &parallelism_tensor},
};

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
    const std::int64_t tokens = config.get(training_sequence);
    const bool by_group = config.get(model_kv_heads) > 0; // of heads that share keys, which stay together
    const auto& heads_key = by_group ? model_kv_heads : model_heads;
    const std::int64_t heads = config.get(heads_key);
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
        config.refuse(heads_key.name, fmt::format("{} heads cannot be shared out evenly over {} ranks of context "
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
    const std::int64_t chunks = config.get(parallelism_chunks);
    if (chunks < 1) config.refuse(parallelism_chunks.name, "must be at least 1");
    if (chunks > 1024) config.refuse(parallelism_chunks.name, "must be at most 1024");
    for (int axis = 0; axis < layout.mesh.axis_count(); ++axis)
        if (layout.mesh.axis(axis).name == "pipeline") layout.pipeline_axis = axis;
    if (layout.stages() == 1) return;
    layout.chunks_per_stage = interleaved ? static_cast<int>(chunks) : 1;
}

} // namespace

std::int64_t rows_together(const Mesh& mesh) {
    std::int64_t together = 1;
    bool experts = false;
    for (int index = 0; index < mesh.axis_count(); ++index) {
        const MeshAxis& axis = mesh.axis(index);
        if (axis.name == "expert" || axis.name == "context" || axis.name == "sample") together *= axis.size;
        experts = experts || (axis.name == "expert" && axis.size > 1);
    }
    return experts ? together : 1;
}

void check_rows(const Config& config, const Mesh& mesh, std::int64_t rows) {
    const std::int64_t together = rows_together(mesh);
    if (together == 1) return;
    if (config.get(model_experts) == 0)
        config.refuse(parallelism_expert.name, "the model has no experts to share out: set model.moe_experts");
    std::vector<std::string> shared;
    for (int index = 0; index < mesh.axis_count(); ++index) {
        const MeshAxis& axis = mesh.axis(index);
        if (axis.size > 1 && (axis.name == "expert" || axis.name == "context" || axis.name == "sample"))
            shared.push_back(axis.name);
    }
    if (rows % together != 0)
        config.refuse(training_local_batch.name,
                      fmt::format("micro-batches of {} cannot be shared out evenly over {} ranks of {} parallelism",
                                  rows, together, fmt::join(shared, " and ")));
}

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

void check_tensor(const Config& config, const Graph& graph, const Mesh& mesh, const PlacedGraph& placed) {
    for (int axis = 0; axis < mesh.axis_count(); ++axis) {
        if (mesh.axis(axis).name != "tensor") continue;
        const auto is_shared = [&](ValueId id) {
            return placed.placements.produced[static_cast<std::size_t>(id)][static_cast<std::size_t>(axis)] !=
                   Placement::replicate();
        };
        if (std::ranges::none_of(graph.of_kind(ValueKind::parameter), is_shared))
            config.refuse(parallelism_tensor.name,
                          "no two neighbouring layers of this model can be shared out evenly over so many ranks");
    }
}

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

} // namespace tessera
