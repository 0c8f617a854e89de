// SPDX-License-Identifier: Apache-2.0
// Ranks as threads against one rank: all agree where nothing is wrong, and every collective that is left out, and every
// gradient that is scaled, is found and named.
#include "core/run/verification.hpp"
#include "core/run/planted_fault.hpp"
#include "parallel/communication/local.hpp"
#include "tests/core/tiny_gpt.hpp"
#include "tests/support/sample.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <set>

using namespace tessera;

namespace {

using Words = std::vector<std::string>;
using Plant = std::function<void(Plan&, int rank)>;

// What every rank says of the first steps.
std::vector<Verification::Step> verify(const Words& words, int ranks, int steps, const Plant& plant = {}) {
    std::vector<Verification::Step> said(static_cast<std::size_t>(ranks));
    run_as_threads(ranks, [&](Communicator& communicator) {
        Stream stream = CpuStream(1), host = CpuStream(1);
        const Config config = tiny_config(words);
        const auto dataset = tiny_dataset(config);
        Experiment many = plan_training(config, {communicator.rank(), ranks, true}, dataset.get(), stream);
        Words alone = words;
        for (const std::string& word : words_for_one_rank(many.batch))
            alone.push_back(word);
        const Experiment one = plan_training(tiny_config(alone), {}, dataset.get(), stream);
        if (plant) plant(many.train.plan, communicator.rank());
        Groups groups(many.train.layout.mesh, communicator);
        Verification verification({config, *dataset, groups, stream, host}, one, many);
        Verification::Step& result = said[static_cast<std::size_t>(communicator.rank())];
        result.fault = verification.start();
        for (int step = 0; step < steps && result.fault.empty(); ++step)
            result = verification.step(step);
    });
    for (const Verification::Step& one : said)
        EXPECT_EQ(one.fault, said[0].fault);
    return said;
}

std::string fault_of(const Words& words, int ranks, const Plant& plant) {
    return verify(words, ranks, 2, plant)[0].fault;
}

struct Way {
    std::string name;
    Words words;
    bool same_bits;
};

const Words tensor{"parallelism.tensor_parallel_degree=2"}, context{"parallelism.context_parallel_degree=2"};

std::vector<Way> ways_to_verify() {
    return {
        {"data", {}, true},
        {"zero_1", {"parallelism.zero_stage=1", "training.recompute=selective"}, true},
        {"zero_2", {"parallelism.zero_stage=2"}, true},
        {"zero_3", {"parallelism.zero_stage=3", "training.recompute=full"}, true},
        {"tensor", {tensor[0], "training.recompute=full"}, false},
        {"sequence", {tensor[0], "parallelism.sequence_parallel=true"}, false},
        {"context", {context[0]}, false},
        {"ring", {context[0], "parallelism.context_parallel_method=ring"}, false},
        {"pipeline", {"parallelism.pipeline_parallel_degree=2"}, true},
        {"zero_bubble", {"parallelism.pipeline_parallel_degree=2", "parallelism.pipeline_schedule=zero_bubble"}, true},
    };
}

Plan plan_of(const Words& words) { return plan_tiny(words, 0, 2).train.plan; }

} // namespace

class Verifying : public testing::TestWithParam<Way> {};
INSTANTIATE_TEST_SUITE_P(Ways, Verifying, testing::ValuesIn(ways_to_verify()), [](const auto& way) { return way.param.name; });

TEST_P(Verifying, AllAgreeWhereNothingIsWrong) {
    for (const char* variant : {"plain", "all", "f16", "padded"}) {
        SCOPED_TRACE(variant);
        Words words = variant_named(variant).overrides;
        words.insert(words.end(), GetParam().words.begin(), GetParam().words.end());
        for (const Verification::Step& step : verify(words, 2, 3)) {
            EXPECT_EQ(step.fault, "");
            EXPECT_GT(step.loss, 2);
            EXPECT_GT(step.grad_norm, 0);
            EXPECT_EQ(step.loss_difference + step.gradient_difference == 0, GetParam().same_bits);
            EXPECT_LE(step.update_difference, GetParam().same_bits ? 0 : 1e-6);
        }
    }
}

TEST_P(Verifying, EveryDroppedCollectiveIsNamed) {
    const Plan plan = plan_of(GetParam().words);
    std::set<std::string> names; // of the collective, and the value that it fails to make
    const auto expect_named = [&](const std::string& name, ValueId made, const char* also = "") {
        if (!names.insert(name).second) return; // the backward pass has another of that name
        const std::string fault =
            fault_of(GetParam().words, 2, [&](Plan& p, int) { plant_fault("drop:" + name, 2, p); });
        std::string value = plan.graph.value(made).name; // some are of an op alone: what is made of them is wrong
        if (value == "loss.shards.all_gather") value = "loss:0";
        if (value.starts_with("gradient_square_sum.blocks.")) value = "clip:0";
        EXPECT_NE(fault.find(fmt::format("'{}'", value)), std::string::npos) << name << ": " << fault;
        EXPECT_NE(fault.find(also), std::string::npos) << name << ": " << fault;
    };
    for (const Node& node : plan.graph.nodes())
        if (node.op->transfer() && node.op->transfer()->collective != Collective::slice)
            expect_named(node.name, node.outputs[0]);
    for (const Exchange& exchange : plan.exchanges)
        for (const ValueId id : exchange.values)
            expect_named(plan.graph.value(id).name, id, "every micro-batch agrees");
    for (const Route& route : plan.routes)
        expect_named(plan.graph.value(route.value).name, route.value, "micro-batch 1 of 8");
    EXPECT_GT(names.size(), 6u);
}

TEST_P(Verifying, EveryScaledGradientIsNamedWithItsLayer) {
    const Plan plan = plan_of(GetParam().words);
    for (const Value& value : plan.graph.values()) {
        if (value.gradient_of == no_value) continue;
        const Value& parameter = plan.graph.value(value.gradient_of);
        const std::string fault =
            fault_of(GetParam().words, 2, [&](Plan& p, int) { plant_fault("scale:" + value.name, 2, p); });
        EXPECT_NE(fault.find("step 1, "), std::string::npos) << fault;
        EXPECT_NE(fault.find(fmt::format("(gradient of '{}')", parameter.name)), std::string::npos) << fault;
        const int layer = parameter.parameter->layer;
        EXPECT_NE(fault.find(layer < 0 ? "'" : fmt::format(", layer {}: '", layer)), std::string::npos) << fault;
    }
}

// The first place of all ranks is named, with the rank where it is.
TEST(Verification, NamesTheRankThatIsWrong) {
    for (const int wrong : {0, 1, 2}) {
        const std::string fault = fault_of({}, 3, [&](Plan& plan, int rank) {
            if (rank == wrong) plant_fault("scale:layers.1.mlp.activation", 2, plan);
        });
        EXPECT_NE(fault.find(fmt::format("forward pass, layer 1: 'layers.1.mlp.activation' on rank {} (data {})", wrong,
                                         wrong)),
                  std::string::npos)
            << fault;
        EXPECT_NE(fault.find("agrees, up to 'layers.1.mlp.up'"), std::string::npos) << fault;
    }
    const std::string fault = fault_of({}, 2, [&](Plan& plan, int rank) {
        plant_fault(rank == 0 ? "scale:layers.1.mlp.up" : "scale:layers.0.mlp.up", 2, plan);
    });
    EXPECT_NE(fault.find("'layers.0.mlp.up' on rank 1"), std::string::npos) << fault;
}

TEST(Verification, PlantsNothingUnknown) {
    Plan plan = plan_of(tensor);
    EXPECT_THROW(plant_fault("drop:layers.0.mlp.up", 2, plan), ConfigError);
    EXPECT_THROW(plant_fault("scale:nothing", 2, plan), ConfigError);
    EXPECT_THROW(plant_fault("lose:loss", 2, plan), ConfigError);
}

// Against element by element, for runs and boxes of all types.
TEST(HeldPart, DistanceIsThatOfTheElementsHeld) {
    const Shape whole{5, 6};
    const Box box{{{1, 4}, {2, 6}}, true};
    const HeldPart part{whole, boxes_of_run(box, {2, 11})};
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i32, DType::f8e4m3, DType::f8e5m2}) {
        SCOPED_TRACE(name_of(dtype));
        Sample all(whole, dtype, 1, -20, 20), held({9}, dtype);
        double largest = 0;
        for (std::int64_t i = 0; i < all.count(); ++i)
            largest = std::max(largest, std::abs(all[i]));
        take_part(part, all.view(), held.view());
        for (std::int64_t i = 0; i < 9; ++i)
            EXPECT_EQ(held[i], all[(1 + (i + 2) / 4) * 6 + 2 + (i + 2) % 4]);
        EXPECT_EQ(distance(part, held.view(), all.view()), 0);
        const double before = held[4];
        held.set(4, before + 4);
        EXPECT_EQ(distance(part, held.view(), all.view()), (held[4] - before) / largest);
    }
}

// 4 chunks of 3 rows of 2 in each of 2 outer rows: of 2 ranks the second holds chunks 1 and 2.
TEST(HeldPart, ZigzagPlacesAreLedToTheirElements) {
    const Shape whole{2, 12, 2};
    const HeldPart part{whole, {{{{0, 2}, {6, 12}, {0, 2}}, true}}, {1, 2}};
    Sample all(whole, DType::f32, 1), held({2, 6, 2}, DType::f32);
    take_part(part, all.view(), held.view());
    for (std::int64_t outer = 0; outer < 2; ++outer)
        for (std::int64_t i = 0; i < 12; ++i)
            EXPECT_EQ(held[outer * 12 + i], all[outer * 24 + 6 + i]);
    const HeldPart first{whole, {{{{0, 2}, {0, 6}, {0, 2}}, true}}, {1, 2}};
    take_part(first, all.view(), held.view());
    for (std::int64_t outer = 0; outer < 2; ++outer)
        for (std::int64_t i = 0; i < 6; ++i) {
            EXPECT_EQ(held[outer * 12 + i], all[outer * 24 + i]);
            EXPECT_EQ(held[outer * 12 + 6 + i], all[outer * 24 + 18 + i]);
        }
    EXPECT_EQ(distance(first, held.view(), all.view()), 0);
    held.set(8, held[8] + 1);
    EXPECT_GT(distance(first, held.view(), all.view()), 0.1);
}

TEST(HeldPart, WhatIsNotFiniteIsFarOrTheSame) {
    const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
    Sample all({3}, DType::f32), held({3}, DType::f32);
    const HeldPart part{{3}, boxes_of_run({{{0, 3}}, true}, {0, 3})};
    held.set(0, 1e-30);
    EXPECT_EQ(distance(part, held.view(), all.view()), infinity); // the whole is 0
    all.set(0, nan);
    all.set(1, infinity);
    EXPECT_EQ(distance(part, held.view(), all.view()), infinity);
    held.set(0, nan);
    EXPECT_EQ(distance(part, held.view(), all.view()), infinity);
    held.set(1, infinity);
    EXPECT_EQ(distance(part, held.view(), all.view()), 0);
}
