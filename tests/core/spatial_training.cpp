// SPDX-License-Identifier: Apache-2.0
// A small convolutional network whose images ranks share out, alone and with other axes, trained against one rank; what
// its plan puts between the ranks; and that a lost row is found.
#include "core/config_catalog.hpp"
#include "core/cost/step_cost.hpp"
#include "core/graph/recompute.hpp"
#include "core/ops/ops.hpp"
#include "core/optimizers/optimizer.hpp"
#include "core/plan/traffic.hpp"
#include "core/run/experiment.hpp"
#include "core/run/weights.hpp"
#include "kernels/copy.hpp"
#include "tests/core/planned_run.hpp"
#include "tests/core/thread_mesh.hpp"
#include "tests/core/tiny_machine.hpp"
#include "tests/core/watched_halos.hpp"
#include "tests/support/tolerance.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>

using namespace tessera;

namespace {

constexpr std::int64_t rows = 2, width = 6, classes = 5, micro_batches = 4;

struct Settings {
    std::vector<MeshAxis> axes;
    std::int64_t height = 9;
    int zero_stage = 0;
    Recompute again = Recompute::none;
    DType dtype = DType::f32;
    std::int64_t lost = 0; // bytes of each halo that the last rank receives
    int steps = 20;

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
        images = graph_.input("images", {{rows, settings.height, width, 3}, dtype_}, "image");
        labels = graph_.input("labels", {{rows, 1, 1}, DType::i32});
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
        norm = append_optimizer(graph_, gradients, *make_optimizer(config), 1);
        recompute(graph_, settings.again);
    }

    Graph take() && { return std::move(graph_); }

    ValueId images, labels, loss, norm;

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

Program program_of(const Settings& settings) {
    Program program;
    Network network(settings);
    program.model.tokens = network.images;
    program.model.targets = network.labels;
    program.model.loss = network.loss;
    program.model.logits = network.norm;
    program.model.graph = std::move(network).take();
    program.layout.mesh = Mesh(settings.axes);
    program.layout.data_axis = program.layout.mesh.axis_named("data");
    for (const MeshAxis& axis : settings.axes)
        program.layout.strategies.push_back(make_strategy(axis.name, axis, {.zero_stage = settings.zero_stage}));
    program.layout.micro_batches = micro_batches;
    const auto data = static_cast<std::size_t>(program.layout.data_axis);
    program.layout.rounds = program.layout.strategies[data]->sums_every_micro_batch();
    return program;
}

// Numbers that tell the samples of a run apart, of a class that they have something to do with.
void fill_batch(std::int64_t number, const View& images, const View& labels, Stream& stream) {
    std::mt19937 generator(static_cast<unsigned>(17 + number));
    std::normal_distribution<float> normal;
    for (std::int64_t row = 0; row < labels.count(); ++row)
        labels.as<std::int32_t>()[row] = static_cast<std::int32_t>((number + row) % classes);
    Buffer numbers(images.count() * 4);
    const View wide(numbers.data(), images.shape, DType::f32);
    for (std::int64_t i = 0; i < wide.count(); ++i)
        wide.as<float>()[i] =
            normal(generator) + static_cast<float>(labels.as<std::int32_t>()[i / (wide.count() / rows)]);
    std::visit([&](auto& s) { kernels::cast(s, wide, images); }, stream);
}

struct Record {
    std::vector<float> losses, norms;
    std::int64_t halo_bytes = 0, planned_halo_bytes = 0;
};

Record train_rank(const Settings& settings, int rank, Groups& groups) {
    Stream stream = CpuStream(1);
    Program program = program_of(settings);
    const Mesh& mesh = program.layout.mesh;
    program.plan = make_plan(program.model.graph, program.layout, rank, stream);
    std::vector<std::unique_ptr<WatchedHalos>> watched;
    std::vector<Communicator*> axes;
    for (int axis = 0; axis < mesh.axis_count(); ++axis) {
        watched.push_back(
            std::make_unique<WatchedHalos>(groups.axis(axis), rank == mesh.size() - 1 ? settings.lost : 0));
        axes.push_back(watched.back().get());
    }
    Groups all(axes, groups.all());
    const Memory memory(program.plan.memory, program.layout, all, stream);
    Executor executor(program.layout, program.plan, memory, all, stream);
    initialize_weights(program, executor, 3);
    initialize_states(program, executor);
    Record record;
    for (int step = 0; step < settings.steps; ++step) {
        const StepState state{3, step, 0, 0.01, 0};
        std::int64_t next = program.plan.share.begin;
        executor.prepare(state);
        executor.run_micro_batches(state, rows, [&] {
            fill_batch(step * micro_batches + next, executor.view(program.model.tokens),
                       executor.view(program.model.targets), stream);
            next += program.plan.stride;
        });
        executor.update(state);
        record.losses.push_back(*executor.view(program.model.loss).as<float>());
        record.norms.push_back(*executor.view(program.model.logits).as<float>());
    }
    for (const auto& axis : watched)
        record.halo_bytes += axis->halo_bytes();
    for (const Transfers& transfers : transfers_of(program.plan, program.layout))
        if (transfers.collective == Collective::halo)
            record.planned_halo_bytes += settings.steps * transfers.bytes_sent;
    return record;
}

std::vector<Record> train(const Settings& settings) {
    const Mesh mesh(settings.axes);
    std::vector<Record> records(static_cast<std::size_t>(mesh.size()));
    run_on_mesh(mesh, [&](int rank, Groups& groups) {
        records[static_cast<std::size_t>(rank)] = train_rank(settings, rank, groups);
    });
    return records;
}

double largest_difference(const std::vector<float>& found, const std::vector<float>& expected) {
    double most = 0;
    for (std::size_t i = 0; i < found.size(); ++i)
        most = std::max(most, std::abs(found[i] - expected[i]) / std::abs(static_cast<double>(expected[i])));
    return found.size() == expected.size() && std::isfinite(most) ? most : 1e30;
}

void expect_trains_as_one_rank(Settings settings) {
    SCOPED_TRACE(settings.text());
    const std::vector<Record> records = train(settings);
    settings.axes = {{"data", 1}};
    settings.zero_stage = 0;
    const Record one = train(settings)[0];
    EXPECT_LT(one.losses.back(), 0.8 * one.losses.front()); // it learns
    const double allowed = tolerance(settings.dtype, Kind::training).relative;
    for (const Record& record : records) {
        EXPECT_LE(largest_difference(record.losses, one.losses), allowed);
        EXPECT_LE(largest_difference(record.norms, one.norms), 10 * allowed);
        EXPECT_EQ(record.halo_bytes, record.planned_halo_bytes);
    }
    std::int64_t fetched = 0;
    for (const Record& record : records)
        fetched += record.halo_bytes;
    EXPECT_GT(fetched, 0);
}

} // namespace

TEST(SpatialTraining, StripsOfAnyHeightTrainAsOneRankDoes) {
    for (const int ranks : {2, 3, 4})
        for (const std::int64_t height : {9, 3}) // of 3 rows some rank of 4 has none
            expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial", ranks}}, .height = height});
    // Ten, since what bf16 rounds otherwise grows from step to step.
    expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial", 3}}, .dtype = DType::bf16, .steps = 10});
}

TEST(SpatialTraining, TilesTrainAsOneRankDoes) {
    expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial_width", 3}}});
    expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial", 2}, {"spatial_width", 2}}});
}

TEST(SpatialTraining, WithOtherAxesItTrainsAsOneRankDoes) {
    for (const int stage : {0, 1, 2, 3})
        expect_trains_as_one_rank({.axes = {{"data", 2}, {"spatial", 2}}, .zero_stage = stage});
    expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial", 2}, {"tensor", 2}}});
    expect_trains_as_one_rank({.axes = {{"data", 2}, {"spatial", 2}, {"tensor", 2}}, .zero_stage = 1});
    expect_trains_as_one_rank({.axes = {{"data", 1}, {"expert", 2}, {"spatial", 2}}});
    for (const Recompute again : {Recompute::selective, Recompute::full})
        expect_trains_as_one_rank({.axes = {{"data", 1}, {"spatial", 3}}, .again = again});
}

// 4 bytes of each halo are enough.
TEST(SpatialTraining, ALostNumberIsFound) {
    Settings settings{.axes = {{"data", 1}, {"spatial", 3}}};
    const Record right = train(settings)[0];
    settings.lost = 4;
    const Record wrong = train(settings)[0];
    EXPECT_GT(largest_difference(wrong.losses, right.losses), 10 * tolerance(DType::f32, Kind::training).relative);
}

// Convolutions and poolings fetch, the mean over the image and the gradients of weights are sums, and no image is ever
// put together.
TEST(SpatialTraining, NothingButHalosAndSumsTravels) {
    const Stream stream = CpuStream(1);
    const Settings settings{.axes = {{"data", 1}, {"spatial", 3}}};
    Program program = program_of(settings);
    program.plan = make_plan(program.model.graph, program.layout, 1, stream);
    for (const Transfers& transfers : transfers_of(program.plan, program.layout)) {
        if (transfers.collective == Collective::halo) continue;
        EXPECT_EQ(transfers.collective, Collective::all_reduce); // of the mean over the image
        EXPECT_EQ(transfers.phase, Phase::forward);
        EXPECT_EQ(transfers.calls, 1);
    }
    const auto halos_in = [&](Phase phase) {
        return std::ranges::count_if(program.plan.calls(phase), [&](const Call& call) {
            const auto transfer = program.plan.graph.nodes()[static_cast<std::size_t>(call.node)].op->transfer();
            return transfer && transfer->collective == Collective::halo;
        });
    };
    EXPECT_EQ(halos_in(Phase::forward), 5);
    EXPECT_EQ(halos_in(Phase::backward), 7); // gradients of three weights, two images and two poolings
    for (const Call& call : program.plan.calls(Phase::forward)) {
        const Node& node = program.plan.graph.nodes()[static_cast<std::size_t>(call.node)];
        if (node.name.starts_with("layers.") || node.name == "pool" || node.name == "relu") {
            EXPECT_EQ(program.plan.value(node.outputs[0]).placements[1], Placement::shard(1)) << node.name;
        }
    }
    for (const Exchange& exchange : program.plan.exchanges)
        EXPECT_EQ(exchange.collective, Collective::all_reduce);
}

// Whoever sends most is waited for: a rank at the edge of the image has one neighbour and waits as long as the others.
TEST(SpatialTraining, ACostIsThatOfTheRankThatSendsMost) {
    const Stream stream = CpuStream(1);
    Program program = program_of({.axes = {{"data", 1}, {"spatial", 3}}});
    std::vector<double> forward;
    for (const int rank : {0, 1}) {
        program.plan = make_plan(program.model.graph, program.layout, rank, stream);
        std::int64_t sent = 0, calls = 0;
        for (const Transfers& transfers : transfers_of(program.plan, program.layout))
            if (transfers.collective == Collective::halo && transfers.phase == Phase::forward) {
                sent += transfers.bytes_sent / transfers.runs;
                calls += transfers.calls;
            }
        EXPECT_GT(sent, 0);
        const RankCost cost = cost_of_rank(program.plan, program.layout, machine());
        forward.push_back(cost.phase(Phase::forward).transfers[1]);
        const double halos = 2e-6 * static_cast<double>(calls) + static_cast<double>(sent) / 8e9;
        if (rank == 1) {
            EXPECT_GE(forward.back(), halos); // and the mean's sum
        }
    }
    EXPECT_DOUBLE_EQ(forward[0], forward[1]);
}
