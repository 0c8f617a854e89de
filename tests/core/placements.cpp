// SPDX-License-Identifier: Apache-2.0
// Which collectives the plan puts into a GPT on tensor ranks, where its tensors then are, and what is refused.
#include "core/ops/ops.hpp"
#include "core/plan/traffic.hpp"
#include "kernels/error.hpp"
#include "parallel/strategies/catalog.hpp"
#include "tests/core/tiny_gpt.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <set>

using namespace tessera;
using testing::ThrowsMessage;

namespace {

using Words = std::vector<std::string>;
using Calls = std::map<Collective, std::int64_t>; // in one run of a phase

struct Case {
    int data, tensor;
    bool sequence;
    std::string text() const {
        return fmt::format("data {} x tensor {}{}", data, tensor, sequence ? ", sequence" : "");
    }
};

const std::vector<Case> cases = {{1, 2, false}, {1, 4, false}, {2, 2, false}, {1, 2, true}, {1, 4, true}, {2, 2, true}};

Experiment plan(const Case& layout, Words words, int rank = 0) {
    words.insert(words.end(), {"model.n_heads=4", "data.vocab_size=21", "training.seq_len=13",
                               fmt::format("parallelism.tensor_parallel_degree={}", layout.tensor),
                               fmt::format("parallelism.sequence_parallel={}", layout.sequence)});
    return plan_tiny(words, rank, layout.data * layout.tensor);
}

Calls calls_over(std::string_view axis, const Program& program, Phase phase) {
    Calls calls;
    for (const Transfers& transfers : transfers_of(program.plan, program.layout))
        if (program.layout.mesh.axis(transfers.axis).name == axis && transfers.phase == phase)
            calls[transfers.collective] += transfers.calls;
    return calls;
}

// By mesh axis.
Placements at(const Program& program, std::string_view name) {
    return program.plan.value(program.plan.graph.named(name)).placements;
}

Placements gradient_at(const Program& program, std::string_view name) {
    const Graph& graph = program.plan.graph;
    for (std::size_t i = 0; i < graph.values().size(); ++i)
        if (graph.values()[i].gradient_of == graph.named(name)) return program.plan.values[i].placements;
    throw InternalError(fmt::format("'{}' has no gradient", name));
}

} // namespace

// Megatron-LM (Shoeybi et al. 2019, fig. 3): two sums in each pass through a block; one more for the embedding and for
// the input of the head. The loss gathers three numbers a row.
TEST(TensorPlacements, TwoSumsInEachPassThroughABlock) {
    for (const Case& layout : cases)
        for (const std::int64_t blocks : {1, 3}) {
            if (layout.sequence) continue;
            SCOPED_TRACE(fmt::format("{}, {} blocks", layout.text(), blocks));
            const Experiment experiment = plan(layout, {fmt::format("model.n_layers={}", blocks), "model.bias=true"});
            const Program& train = experiment.train;
            const Calls forward{{Collective::all_reduce, 2 * blocks + 1}, {Collective::all_gather, 1}};
            EXPECT_EQ(calls_over("tensor", train, Phase::prepare), Calls());
            EXPECT_EQ(calls_over("tensor", train, Phase::forward), forward);
            EXPECT_EQ(calls_over("tensor", train, Phase::backward), (Calls{{Collective::all_reduce, 2 * blocks + 1}}));
            EXPECT_EQ(calls_over("tensor", train, Phase::update), (Calls{{Collective::all_reduce, 1}})); // the norm
            EXPECT_EQ(calls_over("tensor", experiment.evaluate, Phase::forward), forward);
            for (const Exchange& exchange : train.plan.exchanges)
                EXPECT_EQ(train.layout.mesh.axis(exchange.axis).name, "data");
        }
}

// Korthikanti et al. 2022: a scattered sum and a gathering in place of each sum; what the backward pass needs whole
// again is gathered again: the inputs of a block's two first products, that of the head, and the gradient of the
// embedding.
TEST(TensorPlacements, SequenceParallelismScattersAndGathers) {
    for (const Case& layout : cases)
        for (const std::int64_t blocks : {1, 3}) {
            if (!layout.sequence) continue;
            SCOPED_TRACE(fmt::format("{}, {} blocks", layout.text(), blocks));
            const Experiment experiment = plan(layout, {fmt::format("model.n_layers={}", blocks), "model.dropout=0.1"});
            const Program& train = experiment.train;
            const Calls forward{{Collective::reduce_scatter, 2 * blocks + 1}, {Collective::all_gather, 2 * blocks + 2}};
            const Calls backward{{Collective::reduce_scatter, 2 * blocks + 1},
                                 {Collective::all_gather, 4 * blocks + 2}};
            EXPECT_EQ(calls_over("tensor", train, Phase::forward), forward);
            EXPECT_EQ(calls_over("tensor", train, Phase::backward), backward);
            EXPECT_EQ(calls_over("tensor", experiment.evaluate, Phase::forward), forward);
            std::size_t summed = 0; // weights of norms, of which each rank sees a part of the sequence
            for (const Exchange& exchange : train.plan.exchanges)
                if (train.layout.mesh.axis(exchange.axis).name == "tensor") summed += exchange.values.size();
            EXPECT_EQ(summed, 2 * static_cast<std::size_t>(blocks) + 1);
        }
}

// DeepSpeed-Ulysses (Jacobs et al. 2023): heads for positions before attention, positions for heads after it.
TEST(ContextPlacements, TwoExchangesAroundAttention) {
    for (const std::int64_t blocks : {1, 3})
        for (const int ranks : {2, 4}) {
            SCOPED_TRACE(fmt::format("{} blocks on {} ranks", blocks, ranks));
            const Experiment experiment =
                plan_tiny({fmt::format("model.n_layers={}", blocks), "model.n_heads=4", "model.dropout=0.1",
                           fmt::format("parallelism.context_parallel_degree={}", ranks)},
                          0, ranks);
            const Program& train = experiment.train;
            const Calls exchanges{{Collective::all_to_all, 2 * blocks}};
            EXPECT_EQ(calls_over("context", train, Phase::prepare), Calls());
            EXPECT_EQ(calls_over("context", train, Phase::forward), exchanges);
            EXPECT_EQ(calls_over("context", train, Phase::backward), exchanges);
            EXPECT_EQ(calls_over("context", experiment.evaluate, Phase::forward), exchanges);
            for (const ValueId id : train.model.graph.of_kind(ValueKind::parameter)) {
                const std::string& name = train.model.graph.value(id).name;
                const bool positions = name == "position.weight"; // the only ones that are needed in part
                EXPECT_EQ(at(train, name).back(), positions ? Placement::shard(0) : Placement::replicate()) << name;
            }
        }
}

// Ring Attention (Liu et al. 2023): keys and values travel within attention, in the backward pass with their gradients,
// and nothing else does but the gradient of the positions, which rest whole.
TEST(ContextPlacements, ARingInEachAttention) {
    for (const std::int64_t blocks : {1, 3})
        for (const int ranks : {2, 4})
            for (const bool tensor : {false, true}) {
                SCOPED_TRACE(fmt::format("{} blocks on {} ranks, tensor {}", blocks, ranks, tensor));
                const Words words{fmt::format("model.n_layers={}", blocks),
                                  "model.dropout=0.1",
                                  "model.n_heads=2",
                                  "training.seq_len=24",
                                  "parallelism.context_parallel_method=ring",
                                  fmt::format("parallelism.context_parallel_degree={}", ranks),
                                  fmt::format("parallelism.tensor_parallel_degree={}", tensor ? 2 : 1),
                                  fmt::format("parallelism.sequence_parallel={}", tensor)};
                const Experiment experiment = plan_tiny(words, 0, ranks * (tensor ? 2 : 1));
                const Program& train = experiment.train;
                EXPECT_EQ(calls_over("context", train, Phase::prepare), Calls());
                EXPECT_EQ(calls_over("context", train, Phase::forward), (Calls{{Collective::ring, blocks}}));
                EXPECT_EQ(calls_over("context", train, Phase::backward),
                          (Calls{{Collective::ring, blocks}, {Collective::all_gather, 1}}));
                EXPECT_EQ(calls_over("context", experiment.evaluate, Phase::forward),
                          (Calls{{Collective::ring, blocks}}));
                for (const ValueId id : train.model.graph.of_kind(ValueKind::parameter))
                    EXPECT_EQ(train.plan.value(id).placements[1], Placement::replicate());
            }
}

// Activations of a rank are those of its part of the sequence, whatever the number of ranks.
TEST(ContextPlacements, ARingNeedsMemoryForItsPartAlone) {
    const auto need = [](int ranks) {
        const MemoryNeed memory = plan_tiny({fmt::format("training.seq_len={}", 128 * ranks),
                                             "data.validation_fraction=0", "parallelism.context_parallel_method=ring",
                                             fmt::format("parallelism.context_parallel_degree={}", ranks)},
                                            0, ranks)
                                      .train.plan.memory;
        return memory[MemoryKind::activations] + memory[MemoryKind::workspace];
    };
    const std::int64_t two = need(2), eight = need(8);
    EXPECT_LT(static_cast<double>(eight), 1.1 * static_cast<double>(two)); // tokens of all, gradient of the positions
}

TEST(TensorPlacements, TheDataAxisIsSilentWithinAMicroBatch) {
    for (const Case& layout : cases) {
        const Experiment experiment = plan(layout, {});
        const Program& train = experiment.train;
        std::size_t summed = 0;
        for (const Exchange& exchange : train.plan.exchanges)
            if (exchange.axis == train.layout.data_axis) summed += exchange.values.size();
        for (const Phase phase : {Phase::prepare, Phase::forward, Phase::backward, Phase::update})
            EXPECT_EQ(calls_over("data", train, phase), Calls()) << layout.text();
        EXPECT_EQ(summed, layout.data == 1 ? 0 : train.model.graph.of_kind(ValueKind::parameter).size() + 1);
    }
}

// A sum over the data axis goes on with the tree of the micro-batches; one over other axes comes after it.
TEST(TensorPlacements, GradientsAreSummedOverTheDataAxisFirst) {
    const Experiment experiment = plan({2, 2, true}, {"model.bias=true", "parallelism.bucket_cap_mb=0.001"});
    std::set<ValueId> done;
    int over_both = 0;
    for (const Exchange& exchange : experiment.train.plan.exchanges)
        for (const ValueId id : exchange.values) {
            if (exchange.axis == experiment.train.layout.data_axis) {
                EXPECT_TRUE(done.insert(id).second);
            } else {
                EXPECT_TRUE(done.contains(id)) << experiment.train.plan.graph.value(id).name;
                ++over_both;
            }
        }
    EXPECT_GT(over_both, 0);
}

TEST(TensorPlacements, WeightsGradientsAndStatesAreCutByRole) {
    const Placement whole = Placement::replicate();
    const std::map<std::string, Placement> expected = {
        {"embedding.weight", Placement::shard(0)},
        {"position.weight", whole},
        {"head.weight", Placement::shard(0)},
        {"norm.scale", whole},
        {"norm.bias", whole},
        {"layers.1.attention.qkv.weight", Placement::shard(1)},
        {"layers.1.attention.qkv.bias", Placement::shard(1)},
        {"layers.1.attention.out.weight", Placement::shard(1)},
        {"layers.1.attention.out.bias", whole},
        {"layers.1.attention_norm.scale", whole},
        {"layers.1.mlp.up.weight", Placement::shard(0)},
        {"layers.1.mlp.up.bias", Placement::shard(0)},
        {"layers.1.mlp.down.weight", Placement::shard(1)},
        {"layers.1.mlp.down.bias", whole},
    };
    for (const Case& layout : cases)
        for (int rank = 0; rank < layout.data * layout.tensor; ++rank) {
            SCOPED_TRACE(fmt::format("{}, rank {}", layout.text(), rank));
            const Experiment experiment = plan(layout, {"model.bias=true", "model.tied_head=false"}, rank);
            const Program& train = experiment.train;
            for (const auto& [name, placement] : expected) {
                Placements there{whole, placement};
                if (layout.sequence && name == "position.weight") there[1] = Placement::shard(0);
                EXPECT_EQ(at(train, name), there) << name;
                EXPECT_EQ(gradient_at(train, name), there) << name;
                EXPECT_EQ(at(train, "optimizer.first_moment/" + name), there) << name;
                EXPECT_EQ(at(experiment.evaluate, name), there) << name;
            }
            const PlannedValue& table = train.plan.value(train.plan.graph.named("embedding.weight"));
            const Range rows = shard_range(21, layout.tensor, rank % layout.tensor);
            EXPECT_EQ(table.box.ranges[0], rows);
            EXPECT_EQ(table.local.shape, (Shape{rows.size(), 16}));
        }
}

// What lies between the layers that share their work: whole, or a part of the sequence.
TEST(TensorPlacements, TheResidualStreamIsWholeOrAPartOfTheSequence) {
    for (const Case& layout : cases) {
        const Experiment experiment = plan(layout, {});
        const Plan& planned = experiment.train.plan;
        const Placement expected = layout.sequence ? Placement::shard(1) : Placement::replicate();
        int found = 0;
        for (const Call& call : planned.calls(Phase::forward)) {
            const Node& node = planned.graph.nodes()[static_cast<std::size_t>(call.node)];
            if (node.op->name() != "residual_norm" && node.op->name() != "layer_norm") continue;
            for (const ValueId output : node.outputs)
                EXPECT_EQ(planned.value(output).placements.back(), expected) << layout.text() << node.name;
            ++found;
        }
        EXPECT_EQ(found, 5); // two in each of two blocks, and the last
    }
    const auto bytes = [](bool sequence) {
        return plan({1, 4, sequence}, {}).train.plan.memory[MemoryKind::activations];
    };
    EXPECT_LT(bytes(true), bytes(false));
}

// Each rank does its share of the products, and no more.
TEST(TensorPlacements, ARankHoldsItsShareOfWeightsAndActivations) {
    const MemoryNeed one = plan_tiny({"model.n_heads=4", "model.dim=64"}, 0, 1).train.plan.memory;
    const MemoryNeed four = plan_tiny({"model.n_heads=4", "model.dim=64", "parallelism.tensor_parallel_degree=4",
                                       "parallelism.sequence_parallel=true"},
                                      0, 4)
                                .train.plan.memory;
    for (const MemoryKind kind : {MemoryKind::weights, MemoryKind::optimizer, MemoryKind::gradients})
        EXPECT_LT(four[kind], one[kind] * 30 / 100) << name_of(kind);
    EXPECT_LT(four[MemoryKind::activations], one[MemoryKind::activations] * 60 / 100);
}

namespace {

class WithoutRules final : public Op {
public:
    std::string_view name() const override { return "sort"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0]}; }
    void run(Stream&, const Operands&) const override {}
};

// A mesh of a data axis of one rank and tensor axes of two.
Layout tensor_layout(const Words& axes) {
    Layout layout;
    std::vector<MeshAxis> mesh{{"data", 1}};
    for (const std::string& axis : axes)
        mesh.push_back({axis, 2});
    layout.mesh = Mesh(mesh);
    layout.strategies.push_back(make_strategy("data", layout.mesh.axis(0)));
    for (int axis = 1; axis < layout.mesh.axis_count(); ++axis)
        layout.strategies.push_back(make_strategy("tensor", layout.mesh.axis(axis)));
    return layout;
}

// x times a weight of the role "column": y is cut along its last dim.
ValueId cut_value(Graph& graph) {
    const ValueId x = graph.input("x", {{4, 8}, DType::f32});
    const ValueId w = graph.parameter("w", {16, 8}, {"column", -1, {}, true});
    return ops::linear(graph, "y", x, w, no_value);
}

} // namespace

TEST(TensorPlacements, AnOpWithoutARuleIsGivenTheWhole) {
    Graph graph;
    graph.keep(graph.apply_one(std::make_shared<WithoutRules>(), "sorted", {cut_value(graph)}));
    const Layout layout = tensor_layout({"tensor"});
    const Plan planned = make_plan(graph, layout, 0, CpuStream(1));
    ASSERT_EQ(planned.calls(Phase::forward).size(), 3);
    EXPECT_EQ(planned.graph.nodes()[1].op->name(), "all_gather");
    EXPECT_EQ(planned.graph.nodes()[1].name, "y.all_gather");
    EXPECT_EQ(planned.value(planned.graph.nodes()[2].inputs[0]).local.shape, (Shape{4, 16}));
}

TEST(TensorPlacements, AnOpWithoutARuleCannotHaveAPartOfAWeight) {
    Graph graph;
    const ValueId w = graph.parameter("w", {16, 8}, {"column", -1, {}, true});
    graph.keep(graph.apply_one(std::make_shared<WithoutRules>(), "layers.0.sorted", {w}));
    EXPECT_THAT([&] { make_plan(graph, tensor_layout({"tensor"}), 0, CpuStream(1)); },
                ThrowsMessage<ConfigError>("sort 'layers.0.sorted' cannot run on mesh axis 'tensor' with its inputs "
                                           "placed so: w Shard(0)"));
}

TEST(TensorPlacements, TwoAxesOnOneDimAreGatheredFromTheInnerOne) {
    Graph graph;
    graph.keep(graph.apply_one(std::make_shared<WithoutRules>(), "sorted", {cut_value(graph)}));
    const Plan planned = make_plan(graph, tensor_layout({"outer", "inner"}), 0, CpuStream(1));
    ASSERT_EQ(planned.calls(Phase::forward).size(), 4);
    const auto gathered_over = [&](std::size_t node) {
        return planned.graph.nodes()[node].op->transfer().value().axis;
    };
    EXPECT_EQ(gathered_over(1), 2);
    EXPECT_EQ(gathered_over(2), 1);
    EXPECT_EQ(planned.value(planned.graph.nodes()[2].inputs[0]).local.shape, (Shape{4, 8}));
    EXPECT_EQ(planned.value(planned.graph.nodes()[3].inputs[0]).local.shape, (Shape{4, 16}));
}

TEST(TensorPlacements, WhatCannotBeSharedOutEvenlyIsRefused) {
    const auto refusal = [](int ranks, Words words) {
        words.push_back(fmt::format("parallelism.tensor_parallel_degree={}", ranks));
        return [=] { plan_tiny(words, 0, ranks); };
    };
    EXPECT_THAT(
        refusal(4, {"model.n_heads=2"}),
        ThrowsMessage<ConfigError>("'layers.0.attention.qkv.weight' has 2 heads: they cannot be shared out evenly "
                                   "over the 4 ranks of mesh axis 'tensor'"));
    EXPECT_THAT(refusal(2, {"model.hidden_dim=33"}),
                ThrowsMessage<ConfigError>("'layers.0.mlp.up.weight' has 33 hidden units: they cannot be shared out "
                                           "evenly over the 2 ranks of mesh axis 'tensor'"));
    EXPECT_THAT(
        refusal(4, {"model.n_heads=4", "data.vocab_size=3"}),
        ThrowsMessage<ConfigError>("'embedding.weight' has 3 tokens of the vocabulary: they cannot be shared out "
                                   "evenly over the 4 ranks of mesh axis 'tensor'"));
    EXPECT_NO_THROW(refusal(4, {"model.n_heads=4", "data.vocab_size=5"})()); // 2, 1, 1 and 1
}
