// SPDX-License-Identifier: Apache-2.0
// A small convolutional network on any mesh, trained some steps on one rank of it, for tests.
#pragma once

#include "core/config_catalog.hpp"
#include "core/graph/recompute.hpp"
#include "core/ops/ops.hpp"
#include "core/optimizers/optimizer.hpp"
#include "core/plan/traffic.hpp"
#include "core/run/experiment.hpp"
#include "core/run/weights.hpp"
#include "kernels/copy.hpp"
#include "tests/core/planned_run.hpp"
#include "tests/core/watched_halos.hpp"
#include "tests/support/tolerance.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <random>

namespace tessera::images {

inline constexpr std::int64_t rows = 2, width = 6, classes = 5, micro_batches = 2;

struct Settings {
    std::vector<MeshAxis> axes;
    std::int64_t height = 9;
    int zero_stage = 0;
    Recompute again = Recompute::none;
    DType dtype = DType::f32;
    std::int64_t lost = 0; // bytes of each halo that the last rank receives
    int steps = 20;
    bool sequence = false; // sequence parallelism beside tensor parallelism
    bool one_host = true;

    std::string text() const {
        return fmt::format("{}, height {}, zero {}, recompute {}, {}", Mesh(axes).text(), height, zero_stage,
                           static_cast<int>(again), name_of(dtype));
    }
};

// 3 x 3 convolution, ReLU, overlapping max pooling, a residual branch of depthwise and average pooling, a convolution
// with a stride, the mean over the image, and a linear layer.
class Network {
public:
    explicit Network(const Settings& settings) : dtype_(settings.dtype) {
        const ValueId images = graph_.input("images", {{rows, settings.height, width, 3}, dtype_}, "image");
        const ValueId labels = graph_.input("labels", {{rows, 1, 1}, DType::i32});
        const WindowDim three{.size = 3, .before = 1, .after = 1},
            half{.size = 3, .stride = 2, .before = 1, .after = 1};
        ValueId x = convolution(0, images, 8, {three, three}, 1, "column");
        x = ops::activation(graph_, "relu", Activation::relu, x);
        x = ops::max_pool(graph_, "pool", x, {half, three});
        const ValueId branch = convolution(1, x, 8, {three, three}, 8, "column");
        x = ops::add(graph_, "sum", ops::average_pool(graph_, "smooth", x, {three, three}, false), branch);
        x = convolution(2, x, 6, {{.size = 2, .stride = 2, .before = 1}, three}, 1, "");
        x = ops::activation(graph_, "gelu", Activation::gelu, x);
        const Shape& last = graph_.value(x).type.shape;
        x = ops::average_pool(graph_, "mean", x, {{.size = last[1]}, {.size = last[2]}}, false);
        const ValueId scale = graph_.step_input("scale", {{}, DType::f32}, [](const StepState&, const View& host) {
            *host.as<float>() = 1.0f / (rows * micro_batches);
        });
        const ValueId logits = ops::linear(graph_, "head", x, weight("head", {classes, 6}, ""), no_value);
        loss = ops::cross_entropy(graph_, "loss", logits, labels, scale, classes);
        const Config config = Config::parse("[optimizer]\nlr = 0.01\n", "test.toml", {}, known_keys());
        const std::vector<ValueId> gradients = differentiate(graph_, loss);
        norm = append_optimizer(graph_, gradients, *make_optimizer(config), {.max_norm = 1});
        recompute(graph_, settings.again);
    }

    Graph take() && { return std::move(graph_); }

    ValueId loss, norm;

private:
    ValueId weight(const std::string& name, const Shape& shape, const std::string& role) {
        const ValueId there = graph_.parameter(name + ".weight", shape, {role, layer_, {0.3, 0}, true});
        return dtype_ == DType::f32 ? there : ops::cast(graph_, name + ".narrow", there, dtype_);
    }
    ValueId convolution(int layer, ValueId x, std::int64_t filters, const Window& window, std::int64_t groups,
                        const std::string& role) {
        layer_ = layer;
        const Graph::LayerGuard guard(graph_, layer);
        const std::string name = fmt::format("layers.{}", layer);
        const Shape shape{filters, window.height.size, window.width.size, graph_.value(x).type.shape[3] / groups};
        const ValueId w = weight(name, shape, role);
        const ValueId bias = graph_.parameter(name + ".bias", {filters}, {role, layer, {0.1, 0}, false});
        return ops::convolution(graph_, name, x, w, bias, window, groups);
    }

    Graph graph_;
    DType dtype_;
    int layer_ = -1;
};

struct Described { // but for the plan, which is a rank's own
    Program program;
    ValueId loss, norm;
};

inline Described describe(const Settings& settings) {
    Network network(settings);
    Described described{{}, network.loss, network.norm};
    Program& program = described.program;
    program.model.graph = std::move(network).take();
    program.layout.mesh = Mesh(settings.axes);
    program.layout.data_axis = program.layout.mesh.axis_named("data");
    for (const MeshAxis& axis : settings.axes)
        program.layout.strategies.push_back(make_strategy(
            axis.name, axis, {.zero_stage = settings.zero_stage, .sequence_parallel = settings.sequence}));
    for (int axis = 0; axis < program.layout.mesh.axis_count(); ++axis)
        if (settings.axes[static_cast<std::size_t>(axis)].name == "pipeline") program.layout.pipeline_axis = axis;
    program.layout.one_host = settings.one_host;
    program.layout.micro_batches = micro_batches;
    const auto data = static_cast<std::size_t>(program.layout.data_axis);
    program.layout.rounds = program.layout.strategies[data]->sums_every_micro_batch();
    return described;
}

// Numbers that tell the samples of a run apart, of a class that they have something to do with.
inline void fill_batch(std::int64_t number, const View& images, const View& labels, Stream& stream) {
    const auto label = [number](std::int64_t row) { return static_cast<std::int32_t>((number + row) % classes); };
    for (std::int64_t row = 0; labels.memory() != nullptr && row < labels.count(); ++row)
        labels.as<std::int32_t>()[row] = label(row);
    if (images.memory() == nullptr) return; // another stage's
    std::mt19937 generator(static_cast<unsigned>(17 + number));
    std::normal_distribution<float> normal;
    Buffer numbers(images.count() * 4);
    const View wide(numbers.data(), images.shape, DType::f32);
    for (std::int64_t i = 0; i < wide.count(); ++i)
        wide.as<float>()[i] = normal(generator) + static_cast<float>(label(i / (wide.count() / rows)));
    std::visit([&](auto& s) { kernels::cast(s, wide, images); }, stream);
}

struct ImageRecord {
    std::vector<float> losses, norms;
    std::int64_t halo_bytes = 0, planned_halo_bytes = 0;
};

inline ImageRecord train_rank(const Settings& settings, int rank, Groups& groups) {
    Stream stream = CpuStream(1);
    auto [program, loss, norm] = describe(settings);
    const Mesh& mesh = program.layout.mesh;
    program.plan = make_plan(program.model.graph, program.layout, rank, stream);
    std::vector<std::unique_ptr<WatchedHalos>> watched;
    std::vector<Communicator*> axes;
    for (int axis = 0; axis < mesh.axis_count(); ++axis) {
        watched.push_back(
            std::make_unique<WatchedHalos>(groups.axis(axis), rank == mesh.size() - 1 ? settings.lost : 0));
        axes.push_back(watched.back().get());
    }
    Groups all(groups.all(), axes);
    const Memory memory(program.plan.memory, program.layout, all, stream);
    Executor executor(program.layout, program.plan, memory, all, stream);
    initialize_weights(program, executor, 3);
    initialize_states(program, executor);
    ImageRecord record;
    for (int step = 0; step < settings.steps; ++step) {
        const StepState state{3, step, 0, 0.01, 0};
        std::int64_t next = program.plan.share.begin;
        executor.prepare(state);
        executor.run_micro_batches(state, rows, [&] {
            fill_batch(step * micro_batches + next, executor.batch()[0], executor.batch()[1], stream);
            next += program.plan.stride;
        });
        executor.update(state);
        record.losses.push_back(*executor.view(loss).as<float>());
        record.norms.push_back(*executor.view(norm).as<float>());
    }
    for (const auto& axis : watched)
        record.halo_bytes += axis->halo_bytes();
    for (const Transfers& transfers : transfers_of(program.plan, program.layout))
        if (transfers.collective == Collective::halo)
            record.planned_halo_bytes += settings.steps * transfers.bytes_sent;
    return record;
}

inline double largest_difference(const std::vector<float>& found, const std::vector<float>& expected) {
    double most = 0;
    for (std::size_t i = 0; i < found.size(); ++i)
        most = std::max(most, std::abs(found[i] - expected[i]) / std::abs(static_cast<double>(expected[i])));
    return found.size() == expected.size() && std::isfinite(most) ? most : 1e30;
}

} // namespace tessera::images
