// SPDX-License-Identifier: Apache-2.0
// A mixture of experts: what its losses add to gradients, what the plan makes of it on expert ranks, and that it trains
// there as on one rank.
#include "core/layers/layers.hpp"
#include "core/ops/ops.hpp"
#include "core/plan/traffic.hpp"
#include "kernels/error.hpp"
#include "tests/core/functional.hpp"
#include "tests/core/graph_run.hpp"
#include "tests/core/tiny_training.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>

using namespace tessera;
using testing::ThrowsMessage;

namespace {

using Words = std::vector<std::string>;
using Calls = std::map<Collective, std::int64_t>;

Words joined(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

const Words four_experts = {"model.moe_experts=4", "model.n_heads=4", "training.local_batch_size=4"};

struct Case {
    int data, expert, context, tensor;
    Words words;
    int ranks() const { return data * expert * context * tensor; }
    Words all(const Words& more = {}) const {
        Words made = joined(four_experts, words);
        made.push_back(fmt::format("parallelism.expert_parallel_degree={}", expert));
        made.push_back(fmt::format("parallelism.context_parallel_degree={}", context));
        made.push_back(fmt::format("parallelism.tensor_parallel_degree={}", tensor));
        return joined(made, more);
    }
    std::string text() const {
        return fmt::format("data {} x expert {} x context {} x tensor {} {}", data, expert, context, tensor,
                           fmt::join(words, " "));
    }
};

Calls calls_over(std::string_view axis, const Program& program, Phase phase) {
    Calls calls;
    for (const Transfers& transfers : transfers_of(program.plan, program.layout))
        if (program.layout.mesh.axis(transfers.axis).name == axis && transfers.phase == phase)
            calls[transfers.collective] += transfers.calls;
    return calls;
}

Placement at(const Program& program, std::string_view name, std::string_view axis) {
    const auto index = static_cast<std::size_t>(program.layout.mesh.axis_named(axis));
    return program.plan.value(program.plan.graph.named(name)).placements[index];
}

} // namespace

// GShard (Lepikhin et al. 2020): tokens to the experts and back, and their gradients the same way.
TEST(ExpertPlacements, TwoExchangesInEachPassThroughAMixture) {
    for (const std::int64_t blocks : {1, 3})
        for (const Case& layout : {Case{1, 2, 1, 1, {}}, {1, 4, 1, 1, {}}, {2, 2, 1, 1, {}}, {1, 2, 1, 2, {}}}) {
            SCOPED_TRACE(fmt::format("{}, {} blocks", layout.text(), blocks));
            const Experiment experiment = plan_tiny(
                layout.all({fmt::format("model.n_layers={}", blocks), "model.bias=true", "model.dropout=0.1"}), 0,
                layout.ranks());
            const Program& train = experiment.train;
            const Calls exchanges{{Collective::all_to_all, 2 * blocks}};
            EXPECT_EQ(calls_over("expert", train, Phase::prepare), Calls());
            EXPECT_EQ(calls_over("expert", train, Phase::forward), exchanges);
            EXPECT_EQ(calls_over("expert", train, Phase::backward), exchanges);
            EXPECT_EQ(calls_over("expert", experiment.evaluate, Phase::forward), exchanges);
            if (layout.tensor == 1) continue; // within the experts as within an MLP, and the gates' gradient
            EXPECT_EQ(calls_over("tensor", train, Phase::forward),
                      (Calls{{Collective::all_reduce, 2 * blocks + 1}, {Collective::all_gather, 1}}));
            EXPECT_EQ(calls_over("tensor", train, Phase::backward), (Calls{{Collective::all_reduce, 3 * blocks + 1}}));
        }
}

// Sequence parallelism gathers a mixture's input as an MLP's; nothing is exchanged.
TEST(ExpertPlacements, TensorRanksExchangeNothing) {
    const Experiment experiment = plan_tiny(Case{1, 1, 1, 2, {"parallelism.sequence_parallel=true"}}.all(), 0, 2);
    for (const Phase phase : {Phase::forward, Phase::backward})
        EXPECT_FALSE(calls_over("tensor", experiment.train, phase).contains(Collective::all_to_all));
}

TEST(ExpertPlacements, ExpertsAndSamplesAreSharedOut) {
    const Experiment experiment = plan_tiny(Case{1, 2, 1, 2, {}}.all({"model.bias=true"}), 0, 4);
    const Program& train = experiment.train;
    const Placement whole = Placement::replicate(), first = Placement::shard(0);
    const std::map<std::string, std::array<Placement, 2>> expected = {
        {"layers.1.moe.router.weight", {whole, whole}},
        {"layers.1.moe.up.weight", {first, Placement::shard(1)}},
        {"layers.1.moe.up.bias", {first, Placement::shard(1)}},
        {"layers.1.moe.down.weight", {first, Placement::shard(2)}},
        {"layers.1.moe.down.bias", {first, whole}},
        {"layers.1.attention.qkv.weight", {whole, Placement::shard(1)}},
        {"layers.1.attention.qkv", {first, Placement::shard(3)}},
        {"layers.1.moe.dispatch", {Placement::shard(1), whole}},
        {"layers.1.moe.up", {first, Placement::shard(3)}},
        {"layers.1.moe.down", {first, Placement::partial()}},
        {"layers.1.moe.combine", {first, Placement::partial()}},
    };
    for (const auto& [name, placements] : expected) {
        EXPECT_EQ(at(train, name, "expert"), placements[0]) << name;
        EXPECT_EQ(at(train, name, "tensor"), placements[1]) << name;
    }
    const std::size_t experts = 2 * 4; // of two blocks, finished where they are
    std::size_t summed = 0;
    for (const Exchange& exchange : train.plan.exchanges)
        if (train.layout.mesh.axis(exchange.axis).name == "expert") summed += exchange.values.size();
    EXPECT_EQ(summed, train.model.graph.of_kind(ValueKind::parameter).size() - experts + 1 + 2); // loss, routings
}

// 3 of 4 experts do not work on a token.
TEST(Mixture, CountsTheParametersThatWorkOnAToken) {
    const Experiment dense = plan_tiny({}, 0, 1), one = plan_tiny({"model.moe_experts=1", "model.moe_top_k=1"}, 0, 1);
    const Experiment four = plan_tiny({"model.moe_experts=4", "model.moe_top_k=1"}, 0, 1);
    const std::int64_t parameters = parameter_count(dense.train.model.graph);
    EXPECT_EQ(active_parameter_count(dense.train.model), parameters);
    EXPECT_EQ(active_parameter_count(one.train.model), parameters + 2 * 16); // the routers
    EXPECT_EQ(active_parameter_count(four.train.model), parameters + 2 * 4 * 16);
    EXPECT_EQ(parameter_count(four.train.model.graph), parameters + 2 * (4 * 16 + 3 * 2 * 64 * 16));
    EXPECT_GT(one.train.plan.flops_per_micro_batch, dense.train.plan.flops_per_micro_batch);
}

TEST(Mixture, EverySecondBlock) {
    const Experiment experiment = plan_tiny({"model.moe_experts=4", "model.moe_every=2", "model.n_layers=3"}, 0, 1);
    const Graph& graph = experiment.train.model.graph;
    EXPECT_NO_THROW(graph.named("layers.0.mlp.up.weight"));
    EXPECT_NO_THROW(graph.named("layers.1.moe.up.weight"));
    EXPECT_NO_THROW(graph.named("layers.2.mlp.up.weight"));
    EXPECT_EQ(experiment.train.model.routings.size(), 1);
}

TEST(Mixture, CapacityIsThatOfAnEvenLoadTimesTheFactor) {
    const auto capacity = [](std::int64_t tokens, std::int64_t experts, std::int64_t choices, double factor) {
        return layers::expert_capacity({experts, choices, factor, 0, 0, {}}, tokens);
    };
    EXPECT_EQ(capacity(64, 8, 1, 1), 8);
    EXPECT_EQ(capacity(64, 8, 2, 1.25), 20);
    EXPECT_EQ(capacity(10, 3, 1, 1), 4);
    EXPECT_EQ(capacity(10, 3, 2, 9), 10);
    EXPECT_EQ(capacity(10, 64, 1, 0.5), 1);
}

// A loss beside the loss: the gradient is of their sum, the second times its own gradient.
TEST(Differentiate, TakesLossesBesideTheLoss) {
    Graph graph;
    const Shape shape{2, 5, 6};
    const ValueId w = graph.parameter("w", shape, {"", -1, {}, false});
    const ValueId c = graph.input("c", {{2, 5, 2}, DType::f32}), scale = graph.input("scale", {{}, DType::f32});
    const ops::Routed routed = ops::route(graph, "route", w, {.choices = 2, .capacity = 2, .balance = 0.3f, .z = 0.2f});
    const ValueId loss = graph.apply(std::make_shared<Functional>(), "functional", {routed.gates, c})[1];
    const std::vector<LossBeside> beside{{routed.loss, scale}};
    const ValueId gradient = differentiate(graph, loss, beside)[0];
    GraphRun run(graph);
    std::mt19937 generator(6);
    for (const ValueId id : {w, c})
        fill_randomly(run[id], generator);
    run[scale].set(0, 1.5);
    run.run({});
    const Sample slopes = run[gradient], middle = run[w];
    for (std::int64_t i = 0; i < middle.count(); ++i) {
        const auto objective = [&](double distance) {
            run[w].set(i, middle[i] + distance);
            run.run({});
            run[w].set(i, middle[i]);
            return run[loss][0] + 1.5 * run[routed.loss][0];
        };
        EXPECT_NEAR(slopes[i], (objective(0.01) - objective(-0.01)) / 0.02, 2e-3) << i;
    }
}

namespace {

constexpr int steps = 4;

struct Record { // of a rank
    std::vector<double> losses, norms, dropped;
    std::vector<std::uint32_t> bits; // of losses, norms and weights
};

std::vector<Record> train(const Words& words, int ranks, bool poisoned = false) {
    std::vector<Record> records(static_cast<std::size_t>(ranks));
    run_as_threads(ranks, [&](Communicator& communicator) {
        TinyTraining training(words, communicator);
        StepNumbers numbers(training.experiment, training.executor);
        Record& record = records[static_cast<std::size_t>(communicator.rank())];
        for (int step = 0; step < steps; ++step) {
            poisoned ? training.poisoned_step(step) : training.step(step);
            StepRecord read{.step = step + 1};
            numbers.read(read);
            record.losses.insert(record.losses.end(), {read.loss, read.balance_loss, read.z_loss});
            record.norms.push_back(read.grad_norm);
            record.dropped.push_back(read.dropped_fraction);
            record.bits.insert(record.bits.end(), {training.loss(), training.norm()});
        }
        const std::vector<std::uint32_t> weights = training.weights();
        record.bits.insert(record.bits.end(), weights.begin(), weights.end());
    });
    return records;
}

void expect_near(const std::vector<double>& found, const std::vector<double>& expected, double relative) {
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i)
        EXPECT_NEAR(found[i], expected[i], relative * expected[i]) << i;
}

const std::vector<Variant> mixtures = {
    {"plain", {}},
    {"one_choice", {"model.moe_top_k=1", "model.moe_capacity_factor=1", "model.bias=true", "model.dropout=0.1"}},
    {"bf16_recomputed", {"training.dtype=bf16", "training.recompute=full", "model.norm=rms_norm"}},
    {"f16", {"training.dtype=f16", "model.bias=true", "training.recompute=selective"}},
};

// One axis each: ranks as threads have one communicator. tests/whole/parallel_modes.py has products of them.
const std::vector<Case> layouts = {
    {1, 2, 1, 1, {}},
    {1, 4, 1, 1, {}},
    {1, 1, 1, 2, {"parallelism.sequence_parallel=true"}},
    {1, 1, 2, 1, {}},
};

} // namespace

class MixtureOnRanks : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Variants, MixtureOnRanks, testing::ValuesIn(mixtures),
                         [](const auto& variant) { return variant.param.name; });

TEST_P(MixtureOnRanks, TrainsAsOneRankDoes) {
    const bool narrow = GetParam().name.find("16") != std::string::npos;
    const double allowed = tolerance(narrow ? DType::bf16 : DType::f32, Kind::training).relative;
    const Record one = train(Case{1, 1, 1, 1, {}}.all(GetParam().overrides), 1)[0];
    EXPECT_GT(one.dropped.back(), 0);
    for (const Case& layout : layouts) {
        SCOPED_TRACE(layout.text());
        for (const Record& record : train(layout.all(GetParam().overrides), layout.ranks())) {
            expect_near(record.losses, one.losses, allowed);
            expect_near(record.norms, one.norms, 10 * allowed);
            for (std::size_t i = 0; i < one.dropped.size(); ++i) // a rounding may send a token elsewhere
                EXPECT_NEAR(record.dropped[i], one.dropped[i], narrow ? 0.01 : 1e-7);
        }
    }
}

TEST_P(MixtureOnRanks, ReadsNothingThatWasNotWritten) {
    const Words words = layouts[0].all(GetParam().overrides);
    const std::vector<Record> clean = train(words, 2), poisoned = train(words, 2, true);
    for (std::size_t rank = 0; rank < clean.size(); ++rank)
        EXPECT_EQ(clean[rank].bits, poisoned[rank].bits) << rank;
}

// Samples are groups of their own: however many data ranks share out the micro-batches.
TEST(Mixture, HasTheSameBitsOnAnyNumberOfDataRanks) {
    const Record one = train(four_experts, 1)[0];
    for (const int ranks : {2, 3})
        EXPECT_EQ(train(four_experts, ranks)[0].bits, one.bits) << ranks;
}

TEST(Mixture, WhatCannotBeSharedOutIsRefused) {
    const auto refusal = [](int ranks, Words words) {
        words.push_back(fmt::format("parallelism.expert_parallel_degree={}", ranks));
        return [=] { plan_tiny(words, 0, ranks); };
    };
    EXPECT_THAT(refusal(2, {"model.moe_experts=3"}),
                ThrowsMessage<ConfigError>("'layers.0.moe.up.weight' has 3 experts: they cannot be shared out evenly "
                                           "over the 2 ranks of mesh axis 'expert'"));
}
