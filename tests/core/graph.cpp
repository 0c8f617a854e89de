// SPDX-License-Identifier: Apache-2.0
// Building graphs and differentiating them: phases, names, sums of gradients, and what cannot be done.
#include "core/graph/graph.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"
#include "tests/core/functional.hpp"
#include "tests/core/graph_run.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

ValueId weight(Graph& graph, const std::string& name, const Shape& shape) {
    return graph.parameter(name, shape, {"weight", 2, {.deviation = 0.1}, true});
}

} // namespace

TEST(Graph, KnowsWhatItHolds) {
    Graph graph;
    const ValueId x = graph.input("x", {{2, 3}, DType::f32});
    const ValueId w = weight(graph, "w", {4, 3});
    const ValueId state = graph.optimizer_state("moment/w", w);
    const ValueId y = ops::linear(graph, "y", x, w, no_value);
    EXPECT_EQ(graph.value(y).type, (TensorType{{2, 4}, DType::f32}));
    EXPECT_EQ(graph.value(y).phase, Phase::forward);
    EXPECT_EQ(graph.value(y).producer, 0);
    EXPECT_EQ(graph.value(x).producer, -1);
    EXPECT_EQ(graph.of_kind(ValueKind::parameter), std::vector<ValueId>{w});
    EXPECT_EQ(graph.of_kind(ValueKind::input), std::vector<ValueId>{x});
    EXPECT_EQ(graph.of_kind(ValueKind::optimizer_state), std::vector<ValueId>{state});
    EXPECT_EQ(graph.value(state).type, graph.value(w).type);
    EXPECT_EQ(graph.value(state).parameter->layer, 2);
    EXPECT_EQ(graph.named("y"), y);
    EXPECT_THAT([&] { graph.named("z"); }, ThrowsMessage<InternalError>(HasSubstr("'z'")));
}

TEST(Graph, PhasesNest) {
    Graph graph;
    const ValueId x = graph.input("x", {{4}, DType::f32});
    const auto phase_of_next = [&] { return graph.value(ops::add(graph, "next", x, x)).phase; };
    EXPECT_EQ(phase_of_next(), Phase::forward);
    {
        const Graph::PhaseGuard update(graph, Phase::update);
        EXPECT_EQ(phase_of_next(), Phase::update);
        {
            const Graph::PhaseGuard prepare(graph, Phase::prepare);
            EXPECT_EQ(phase_of_next(), Phase::prepare);
        }
        EXPECT_EQ(phase_of_next(), Phase::update);
    }
    EXPECT_EQ(phase_of_next(), Phase::forward);
}

TEST(Graph, AccumulatesInF32Only) {
    Graph graph;
    const ValueId x = graph.input("x", {{4}, DType::bf16});
    EXPECT_THAT([&] { graph.accumulate(x); }, ThrowsMessage<InternalError>(HasSubstr("'x' is bf16")));
}

TEST(Differentiate, MarksLossAndGradients) {
    Graph graph;
    const ValueId w = weight(graph, "w", {3}), b = weight(graph, "b", {5});
    const ValueId loss = graph.apply(std::make_shared<Quadratic>(), "quadratic", {w, b})[2];
    const std::vector<ValueId> gradients = differentiate(graph, loss);
    ASSERT_EQ(gradients.size(), 2);
    EXPECT_EQ(graph.value(gradients[0]).gradient_of, w);
    EXPECT_EQ(graph.value(gradients[1]).gradient_of, b);
    for (const ValueId id : {gradients[0], gradients[1], loss})
        EXPECT_TRUE(graph.value(id).accumulated);
    EXPECT_EQ(graph.value(loss).gradient_of, no_value);
}

// loss = sum of c * (w + w + w + x): the gradient of w is 3 c, and x, an input, needs none.
TEST(Differentiate, AddsWhatReachesAValueOnSeveralWays) {
    Graph graph;
    const TensorType type{{4, 6}, DType::f32};
    const ValueId w = weight(graph, "w", type.shape), x = graph.input("x", type), c = graph.input("c", type);
    const ValueId y = ops::add(graph, "y", ops::add(graph, "twice", w, w), ops::add(graph, "once", w, x));
    const ValueId loss = graph.apply(std::make_shared<Functional>(), "functional", {y, c})[1];
    const ValueId gradient = differentiate(graph, loss)[0];
    GraphRun run(graph);
    std::mt19937 generator(1);
    for (const ValueId id : {w, x, c})
        fill_randomly(run[id], generator);
    run.run({});
    for (std::int64_t i = 0; i < run[c].count(); ++i)
        EXPECT_NEAR(run[gradient][i], 3 * run[c][i], 1e-6);
}

// Nothing is computed for what no parameter flows into.
TEST(Differentiate, LeavesInputsAlone) {
    Graph graph;
    const TensorType type{{4, 6}, DType::f32};
    const ValueId x = graph.input("x", type), c = graph.input("c", type), w = weight(graph, "w", {6, 6});
    const ValueId active = ops::activation(graph, "active", Activation::gelu, x);
    const ValueId y = ops::linear(graph, "y", active, w, no_value);
    differentiate(graph, graph.apply(std::make_shared<Functional>(), "functional", {y, c})[1]);
    for (const Node& node : graph.nodes())
        EXPECT_NE(node.op->name(), "activation_gradient");
}

TEST(Differentiate, RefusesAParameterThatTheLossDoesNotKnow) {
    Graph graph;
    const ValueId w = weight(graph, "w", {3}), b = weight(graph, "b", {5});
    weight(graph, "stray", {2});
    const ValueId loss = graph.apply(std::make_shared<Quadratic>(), "quadratic", {w, b})[2];
    EXPECT_THAT([&] { differentiate(graph, loss); }, ThrowsMessage<InternalError>(HasSubstr("'stray'")));
}
