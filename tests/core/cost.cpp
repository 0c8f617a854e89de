// SPDX-License-Identifier: Apache-2.0
// The cost model against formulas worked out here.
#include "core/cost/collective_cost.hpp"
#include "core/cost/step_cost.hpp"
#include "core/plan/traffic.hpp"
#include "core/run/describe_cost.hpp"
#include "core/run/prediction.hpp"
#include "tests/core/tiny_gpt.hpp"
#include "tests/core/tiny_machine.hpp"

#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <numeric>

using namespace tessera;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

std::string with_line(const std::string& section, const std::string& line) {
    std::string text = machine_text;
    return text.insert(text.find("[" + section + "]") + section.size() + 2, "\n" + line + "\n");
}

double sum(const std::vector<double>& seconds) { return std::accumulate(seconds.begin(), seconds.end(), 0.0); }

} // namespace

TEST(Machine, ReadsItsKeys) {
    const Machine found = machine();
    EXPECT_EQ(found.peak_flops(DType::f32), 1024e9);
    EXPECT_EQ(found.peak_flops(DType::bf16), 2048e9);
    EXPECT_EQ(found.peak_flops(DType::f16), 2048e9) << "as bf16 where the file does not say";
    EXPECT_EQ(found.within_node.all_reduce.beta, 16e9);
    EXPECT_EQ(found.within_node.all_reduce.alpha, 1e-6) << "a collective's is a message's where the file does not say";
    EXPECT_EQ(found.within_node.of(Collective::reduce_scatter).beta, 8e9);
    EXPECT_EQ(found.memory_bytes, 1 << 30);
    const Machine again = parse_machine(machine_toml(found, "measured\nhere"), "again.toml");
    EXPECT_EQ(machine_toml(again, ""), machine_toml(found, ""));
}

TEST(Machine, RefusesWhatItDoesNotKnow) {
    const auto parsing = [](const std::string& text) { return [text] { parse_machine(text, "machine.toml"); }; };
    EXPECT_THAT(parsing(with_line("node", "bta = 1")),
                ThrowsMessage<ConfigError>(HasSubstr("no key named 'node.bta'; did you mean 'node.beta'?")));
    EXPECT_THAT(parsing("[rank]\nf32_flops = 1e12"),
                ThrowsMessage<ConfigError>(HasSubstr("machine.toml: rank.memory_bandwidth is missing")));
    EXPECT_THAT(
        parsing(with_line("rank", "product_efficiency = 1.5")),
        ThrowsMessage<ConfigError>(HasSubstr("machine.toml:3:1: rank.product_efficiency = 1.5: must be above 0")));
    EXPECT_THAT(parsing(with_line("rank", "device = \"gpu\"")),
                ThrowsMessage<ConfigError>(HasSubstr("no device named 'gpu'")));
}

TEST(CollectiveCost, RingsOnANode) {
    const AxisPlace place{4, 4};
    EXPECT_DOUBLE_EQ(seconds_of(Collective::all_gather, 8000, place, machine()), 3e-6 + 0.75 * 8000 / 8e9);
    EXPECT_DOUBLE_EQ(seconds_of(Collective::reduce_scatter, 8000, place, machine()), 3e-6 + 0.75 * 8000 / 8e9);
    EXPECT_DOUBLE_EQ(seconds_of(Collective::all_reduce, 8000, place, machine()), 6e-6 + 1.5 * 8000 / 16e9);
    EXPECT_DOUBLE_EQ(seconds_of(Collective::all_to_all, 8000, place, machine()), 3e-6 + 3 * 500 / 8e9);
    EXPECT_DOUBLE_EQ(seconds_of(Collective::halo, 8000, place, machine()), 2e-6 + 8000 / 8e9); // both neighbours
    EXPECT_DOUBLE_EQ(seconds_of(Collective::halo, 8000, {2, 2}, machine()), 1e-6 + 8000 / 8e9);
    EXPECT_EQ(seconds_of(Collective::all_reduce, 8000, {1, 1}, machine()), 0);
    EXPECT_EQ(seconds_of(Collective::slice, 8000, place, machine()), 0);
}

TEST(CollectiveCost, RingsOverNodes) {
    EXPECT_DOUBLE_EQ(seconds_of(Collective::all_gather, 8000, {2, 1}, machine()), 4e-6 + 0.5 * 8000 / 1e9);
    // Two neighbours on each node share what leaves it.
    EXPECT_DOUBLE_EQ(seconds_of(Collective::all_gather, 8000, {4, 2}, machine()), 12e-6 + 0.75 * 8000 / 2e9);
    EXPECT_DOUBLE_EQ(seconds_of(Collective::all_to_all, 8000, {4, 2}, machine()),
                     1e-6 + 500 / 8e9 + 2 * (4e-6 + 500 / 1e9));
    EXPECT_DOUBLE_EQ(seconds_of_send(8000, {4, 2}, machine()), 1e-6 + 1e-6);
    EXPECT_DOUBLE_EQ(seconds_of(Collective::halo, 8000, {4, 2}, machine()), 8e-6 + 8000 / 1e9);
    Machine lone = machine();
    lone.between_nodes = {};
    EXPECT_THAT(
        [&] {
            seconds_of(Collective::all_gather, 8000, {8, 4}, lone);
        },
        ThrowsMessage<ConfigError>(HasSubstr("machine.toml says nothing of the links between nodes")));
}

TEST(CollectiveCost, NeighboursShareANode) {
    const Mesh mesh({{"data", 4}, {"tensor", 2}});
    EXPECT_EQ(place_of(mesh, 0, 0, 4).per_node, 2);
    EXPECT_EQ(place_of(mesh, 1, 0, 4).per_node, 2);
    EXPECT_EQ(place_of(mesh, 0, 0, 2).per_node, 1);
    EXPECT_EQ(place_of(mesh, 0, 7, 8).per_node, 4);
    EXPECT_TRUE(place_of(mesh, 0, 0, 8).on_one_node());
}

TEST(StepCost, ProductsTakeTheirOperations) {
    Machine fast = machine();
    fast.memory_bandwidth = 1e30;
    const Experiment experiment = plan_tiny({}, 0, 1);
    const Plan& plan = experiment.train.plan;
    const StepCost cost = cost_of(plan, experiment.train.layout, fast);
    // 4 T^2 dim multiply-adds in the forward pass, half of them behind the diagonal; twice that in the backward pass.
    const double attention = 2 * 3 * 2 * 2 * (2.0 * 12 * 12 * 16 / 2);
    EXPECT_NEAR(cost.attention, 8 * attention / 512e9, 1e-15);
    EXPECT_NEAR(cost.products, 8 * (plan.flops_per_micro_batch - attention) / 1024e9, 1e-15);
    EXPECT_LT(cost.elementwise + cost.update, 1e-12);
    EXPECT_NEAR(cost.flops_per_second, 8 * plan.flops_per_micro_batch / cost.total(), 1);
}

TEST(StepCost, EverythingElseTakesItsBytes) {
    const Experiment experiment = plan_tiny({}, 0, 1);
    Machine slow = machine();
    slow.f32_flops = 1e30;
    const StepCost once = cost_of(experiment.train.plan, experiment.train.layout, slow);
    slow.memory_bandwidth *= 2;
    const StepCost twice = cost_of(experiment.train.plan, experiment.train.layout, slow);
    EXPECT_NEAR(once.total(), 2 * twice.total(), 1e-15);
    // Adam reads weight, gradient and two moments, and writes all but the gradient, for each of the weights.
    const auto weights = static_cast<double>(parameter_count(experiment.train.model.graph));
    EXPECT_GT(once.update, weights * 7 * 4 / 64e9);
    EXPECT_LT(once.update, weights * 10 * 4 / 64e9);
    slow.call_seconds = 1;
    const StepCost calls = cost_of(experiment.train.plan, experiment.train.layout, slow);
    const Plan& plan = experiment.train.plan;
    const auto count = plan.calls(Phase::prepare).size() + plan.calls(Phase::update).size() +
                       8 * (plan.calls(Phase::forward).size() + plan.calls(Phase::backward).size());
    EXPECT_NEAR(calls.total() - twice.total(), static_cast<double>(count), 1e-6);
}

TEST(StepCost, WaitsForWhatThePlanSends) {
    const Experiment experiment = plan_tiny({"parallelism.tensor_parallel_degree=2"}, 0, 2);
    const Layout& layout = experiment.train.layout;
    const StepCost cost = cost_of(experiment.train.plan, layout, machine());
    double expected = 0;
    for (const Transfers& transfers : transfers_of(experiment.train.plan, layout)) {
        const Link link = machine().within_node.of(transfers.collective);
        const int rounds = transfers.collective == Collective::all_reduce ? 2 : 1;
        expected += static_cast<double>(transfers.runs * transfers.calls * rounds) * link.alpha +
                    static_cast<double>(transfers.bytes_sent) / link.beta;
    }
    for (const Exchange& exchange : experiment.train.plan.exchanges)
        expected += seconds_of(exchange.collective, exchange.bytes, {2, 2}, machine());
    EXPECT_NEAR(cost.waits[static_cast<std::size_t>(layout.mesh.axis_named("tensor"))], expected, 1e-12);
    EXPECT_EQ(cost.waits[0], 0);
}

TEST(StepCost, GpusHideSumsBehindTheBackwardPass) {
    const Experiment experiment = plan_tiny({"parallelism.bucket_cap_mb=0.004"}, 0, 4);
    const Plan& plan = experiment.train.plan;
    ASSERT_GT(plan.exchanges.size(), 2U);
    double all = 0;
    for (const Exchange& exchange : plan.exchanges)
        all += seconds_of(exchange.collective, exchange.bytes, {4, 4}, machine());
    Machine gpu = machine();
    const StepCost waiting = cost_of(plan, experiment.train.layout, gpu);
    EXPECT_NEAR(waiting.waits[0], all, 1e-12);
    EXPECT_EQ(waiting.hidden, 0);
    gpu.gpu = true;
    gpu.call_seconds = 1; // hides all but the last
    const StepCost hiding = cost_of(plan, experiment.train.layout, gpu);
    EXPECT_NEAR(hiding.hidden + sum(hiding.waits), all, 1e-12);
    const Exchange& last = plan.exchanges.back();
    const bool at_the_end = last.after == plan.calls(Phase::backward).size();
    EXPECT_NEAR(hiding.waits[0], at_the_end ? seconds_of(last.collective, last.bytes, {4, 4}, machine()) : 0, 1e-12);
}

// All, or all but those of the first layer, where nothing is left to do meanwhile.
TEST(StepCost, GpusHideWeightsThatAreGatheredAhead) {
    const auto plan = [](int ahead) {
        return plan_tiny({"parallelism.zero_stage=3", "parallelism.shared_memory=false", "model.n_layers=6",
                          fmt::format("parallelism.zero_prefetch={}", ahead)},
                         0, 4)
            .train;
    };
    const Program ahead = plan(1), at_use = plan(0);
    double gathered = 0;
    for (const Transfers& transfers : transfers_of(ahead.plan, ahead.layout))
        if (transfers.collective == Collective::all_gather)
            gathered +=
                static_cast<double>(transfers.runs * transfers.calls) * 3e-6 +
                static_cast<double>(transfers.bytes_sent) / machine().within_node.of(Collective::all_gather).beta;
    Machine gpu = machine();
    const StepCost waiting = cost_of(ahead.plan, ahead.layout, gpu);
    EXPECT_EQ(waiting.hidden, 0);
    gpu.gpu = true;
    gpu.call_seconds = 1;
    const StepCost hiding = cost_of(ahead.plan, ahead.layout, gpu);
    EXPECT_GT(hiding.hidden, 0.7 * gathered);
    EXPECT_LE(hiding.hidden, gathered + 1e-12);
    gpu.call_seconds = 0; // and no more than there is work to hide it behind
    EXPECT_LT(cost_of(ahead.plan, ahead.layout, gpu).hidden, 0.7 * gathered);
    gpu.call_seconds = 1;
    EXPECT_NEAR(hiding.hidden + sum(hiding.waits), sum(waiting.waits), 1e-9);
    EXPECT_EQ(cost_of(at_use.plan, at_use.layout, gpu).hidden, 0);
}

TEST(StepCost, WhatGoesOnBesideTheWorkIsNotWaitedFor) {
    const Experiment experiment = plan_tiny(
        {"parallelism.tensor_parallel_degree=2", "parallelism.zero_stage=1", "parallelism.bucket_cap_mb=0.001"}, 0, 4);
    const Plan& plan = experiment.train.plan;
    const Layout& layout = experiment.train.layout;
    Machine slow = machine();
    slow.call_seconds = 1;
    const StepCost waiting = cost_of(plan, layout, slow);
    const StepCost beside = cost_of(plan, layout, slow, {0, 1});
    EXPECT_GT(waiting.waits[0], 0);
    EXPECT_GT(waiting.waits[1], 0);
    EXPECT_NEAR(beside.total() + beside.hidden, waiting.total(), 1e-9);
    double last = 0; // what the end of the backward pass leaves no time for
    for (const Exchange& exchange : plan.exchanges)
        if (exchange.after == plan.calls(Phase::backward).size())
            for (const ValueId id : exchange.values)
                last += seconds_of(exchange.collective, plan.value(id).local.bytes(), {2, 2}, slow);
    EXPECT_LE(sum(beside.waits), last + 1e-12);
    EXPECT_LT(sum(beside.waits), sum(waiting.waits) / 4);
    slow.call_seconds = 0;
    slow.f32_flops = slow.memory_bandwidth = 1e30; // no work to hide behind
    EXPECT_NEAR(cost_of(plan, layout, slow, {1}).waits[1], cost_of(plan, layout, slow).waits[1], 1e-12);
}

TEST(StepCost, AnyRankTellsOfTheLargestShare) {
    for (const bool reproducible : {true, false}) {
        const std::string key = fmt::format("run.reproducible={}", reproducible);
        std::vector<std::int64_t> shares;
        std::vector<double> seconds;
        for (int rank = 0; rank < 3; ++rank) {
            const Experiment experiment = plan_tiny({key}, rank, 3);
            shares.push_back(experiment.train.plan.share.size());
            const StepCost cost = cost_of(experiment.train.plan, experiment.train.layout, machine());
            seconds.push_back(cost.products);
            EXPECT_NEAR(cost.products, seconds[0], 1e-15);
        }
        std::ranges::sort(shares);
        EXPECT_EQ(shares, reproducible ? (std::vector<std::int64_t>{2, 2, 4}) : (std::vector<std::int64_t>{2, 3, 3}));
        const Experiment alone = plan_tiny({key}, 0, 1);
        const StepCost cost = cost_of(alone.train.plan, alone.train.layout, machine());
        EXPECT_NEAR(seconds[0] / cost.products, static_cast<double>(shares.back()) / 8, 1e-12);
    }
}

namespace {

// Every call takes a second, every message and each step of a collective a quarter.
Machine slow_calls() {
    Machine slow = machine();
    slow.f32_flops = slow.memory_bandwidth = 1e30;
    slow.call_seconds = 1;
    slow.within_node.send = slow.within_node.all_reduce = slow.within_node.all_gather = {0.25, 1e30};
    return slow;
}

std::vector<std::string> pipeline(int stages, std::string_view schedule, std::vector<std::string> words = {}) {
    words.push_back(fmt::format("parallelism.pipeline_parallel_degree={}", stages));
    words.push_back(fmt::format("parallelism.pipeline_schedule={}", schedule));
    words.emplace_back("parallelism.pipeline_chunks=2");
    return words;
}

std::vector<RankCost> costs_of_stages(const std::vector<std::string>& words, int stages, const Machine& on) {
    std::vector<RankCost> costs;
    for (int stage = 0; stage < stages; ++stage) {
        const Experiment experiment = plan_tiny(words, stage, stages);
        costs.push_back(cost_of_rank(experiment.train.plan, experiment.train.layout, on));
    }
    return costs;
}

} // namespace

// The second stage works longest and never waits once it has begun: what it waits for is the first stage's first
// forward and last backward pass, and a message before and after.
TEST(StepCost, APipelineTakesWhatItsScheduleTakes) {
    const std::vector<std::string> words = pipeline(2, "1f1b", {"model.n_layers=4", "model.tied_head=false"});
    const Experiment first = plan_tiny(words, 0, 2), second = plan_tiny(words, 1, 2);
    const auto calls = [](const Experiment& stage, Phase phase) {
        return static_cast<double>(stage.train.plan.calls(phase).size());
    };
    const double forward[] = {calls(first, Phase::forward), calls(second, Phase::forward)};
    const double backward[] = {calls(first, Phase::backward), calls(second, Phase::backward)};
    ASSERT_LE(forward[0] + backward[0] + 0.75, forward[1] + backward[1]);
    std::size_t sent = 0;
    for (const Part& part : first.train.plan.parts)
        sent += part.sends.size();
    ASSERT_EQ(sent, 2U) << "the residual and what is added to it; back comes one gradient";
    const double micro_batches = forward[0] + 0.5 + 8 * (forward[1] + backward[1]) + 0.25 + backward[0];
    const std::vector<RankCost> stages = costs_of_stages(words, 2, slow_calls());
    double once = 0;
    for (const RankCost& stage : stages)
        once = std::max(once, stage.phase(Phase::prepare).total() + stage.phase(Phase::update).total() +
                                  sum(stage.exchanges_after));
    const Layout& layout = first.train.layout;
    const StepCost cost = cost_of(stages, first.train.plan, layout);
    EXPECT_NEAR(cost.total(), micro_batches + once, 1e-9);
    EXPECT_GE(cost.bubble, forward[0] + backward[0] + 0.75 - 1e-9);
    EXPECT_NEAR(cost.products + cost.attention + cost.elementwise, 8 * (forward[1] + backward[1]), 1e-9);
    EXPECT_NEAR(cost.flops_per_second, 8 * first.train.plan.flops_per_micro_batch / 2 / cost.total(), 1e-6);
    for (const int rank : {0, 1})
        EXPECT_NEAR(predict_tiny(words, rank, 2, slow_calls()).cost.total(), cost.total(), 1e-9) << rank;
    EXPECT_THROW(cost_of(first.train.plan, layout, slow_calls()), InternalError) << "one stage is not all";
}

TEST(StepCost, PartsOfAStageAreItsPhases) {
    double bubbles[3];
    for (int i = 0; i < 3; ++i) {
        const std::vector<std::string> words =
            pipeline(4, std::array{"1f1b", "interleaved", "zero_bubble"}[static_cast<std::size_t>(i)],
                     {"model.n_layers=8", "data.vocab_size=20"});
        const std::vector<RankCost> stages = costs_of_stages(words, 4, slow_calls());
        for (const RankCost& stage : stages) {
            ASSERT_EQ(stage.chunks.size(), i == 1 ? 2U : 1U);
            double forward = 0, backward = 0, weights = 0;
            for (const ChunkTime& chunk : stage.chunks) {
                forward += chunk.forward;
                backward += chunk.backward;
                weights += chunk.weights;
            }
            EXPECT_NEAR(forward, stage.phase(Phase::forward).total(), 1e-9);
            EXPECT_NEAR(backward + weights, stage.phase(Phase::backward).total(), 1e-9);
            EXPECT_EQ(weights > backward / 5, i == 2);
        }
        const Experiment any = plan_tiny(words, 0, 4);
        bubbles[i] = cost_of(stages, any.train.plan, any.train.layout).bubble;
    }
    EXPECT_LT(bubbles[1], bubbles[0]);
    EXPECT_LT(bubbles[2], bubbles[0]);
}

// Of the stages between the ends one is planned: as if all had been.
TEST(Prediction, PlansStagesThatAreAlikeOnce) {
    const std::vector<std::string> words = pipeline(5, "1f1b", {"model.n_layers=11", "training.dtype=bf16"});
    const Prediction found = predict_tiny(words, 3, 5, machine());
    std::int64_t memory = 0;
    for (int rank = 0; rank < 5; ++rank)
        memory = std::max(memory, plan_tiny(words, rank, 5).memory.total());
    EXPECT_EQ(found.memory, memory);
    const Experiment any = plan_tiny(words, 0, 5);
    const StepCost all = cost_of(costs_of_stages(words, 5, machine()), any.train.plan, any.train.layout);
    EXPECT_NEAR(found.cost.total() / all.total(), 1, 1e-12);
    EXPECT_GT(found.cost.bubble, 0);
    const StepCost alone = cost_of(plan_tiny({}, 0, 1).train.plan, plan_tiny({}, 0, 1).train.layout, machine());
    EXPECT_EQ(alone.bubble, 0);
    EXPECT_EQ(predict_tiny({}, 0, 1, machine()).cost.total(), alone.total());
}

TEST(StepCost, RingsWorkAndWait) {
    Machine fast = machine();
    fast.memory_bandwidth = 1e30;
    const StepCost alone = cost_of(plan_tiny({}, 0, 1).train.plan, plan_tiny({}, 0, 1).train.layout, fast);
    const Experiment ring =
        plan_tiny({"parallelism.context_parallel_degree=2", "parallelism.context_parallel_method=ring"}, 0, 2);
    const StepCost shared = cost_of(ring.train.plan, ring.train.layout, fast);
    EXPECT_NEAR(shared.attention, alone.attention / 2, 1e-15);
    EXPECT_GT(shared.waits[1], 8 * 2 * 2 * 1e-6) << "a message in each pass of each layer, at least";
}
