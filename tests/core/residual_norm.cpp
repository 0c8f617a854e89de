// SPDX-License-Identifier: Apache-2.0
// residual_norm against add and a norm apart: the same values, and the same gradients whichever of its results is used.
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

constexpr double epsilon = 1e-5;
enum class Used { norm, sum, both };

// loss = sum of coefficients * what is used of (a + b, norm(a + b)); the leaves are the same in both forms.
struct Form {
    Graph graph;
    std::vector<ValueId> leaves, gradients;
    ValueId loss = no_value;

    Form(Norm kind, bool bias, Used used, bool together) {
        const Shape shape{3, 5, 20}, width{20};
        const auto parameter = [&](const std::string& name, const Shape& of) {
            return graph.parameter(name, of, {"", -1, {}, false});
        };
        const auto of_norm = [&](const std::string& name) { // no gradient reaches it where the norm is not used
            return used == Used::sum ? graph.input(name, {width, DType::f32}) : parameter(name, width);
        };
        leaves = {parameter("a", shape), parameter("b", shape), of_norm("scale"),
                  graph.input("coefficients", {shape, DType::f32})};
        if (bias) leaves.push_back(of_norm("bias"));
        const ValueId offset = bias ? leaves[4] : no_value;
        ops::ResidualNorm results{};
        if (together) {
            results = ops::residual_norm(graph, "norm", kind, leaves[0], leaves[1], leaves[2], offset, epsilon);
        } else {
            results.sum = ops::add(graph, "sum", leaves[0], leaves[1]);
            results.y = kind == Norm::layer_norm
                            ? ops::layer_norm(graph, "norm", results.sum, leaves[2], offset, epsilon)
                            : ops::rms_norm(graph, "norm", results.sum, leaves[2], epsilon);
        }
        const ValueId result = used == Used::norm  ? results.y
                               : used == Used::sum ? results.sum
                                                   : ops::add(graph, "both", results.sum, results.y);
        loss = graph.apply(std::make_shared<Functional>(), "functional", {result, leaves[3]})[1];
        gradients = differentiate(graph, loss);
    }

    Samples run() {
        GraphRun run(graph);
        std::mt19937 generator(3);
        for (const ValueId leaf : leaves)
            fill_randomly(run[leaf], generator);
        run.run({});
        Samples found = run.samples(gradients);
        found.push_back(run[loss]);
        return found;
    }
};

} // namespace

TEST(ResidualNorm, IsAddAndNorm) {
    for (const auto& [kind, bias] :
         {std::pair{Norm::layer_norm, true}, {Norm::layer_norm, false}, {Norm::rms_norm, false}})
        for (const Used used : {Used::norm, Used::sum, Used::both}) {
            SCOPED_TRACE(testing::Message() << static_cast<int>(kind) << bias << " used " << static_cast<int>(used));
            const Samples together = Form(kind, bias, used, true).run(), apart = Form(kind, bias, used, false).run();
            ASSERT_EQ(together.size(), apart.size());
            for (std::size_t i = 0; i < apart.size(); ++i)
                EXPECT_TRUE(close_to(together[i], apart[i].values(), tolerance(DType::f32, Kind::norm))) << i;
        }
}

TEST(ResidualNorm, NeedsOnePassEachWay) {
    Form form(Norm::layer_norm, true, Used::both, true);
    std::vector<std::string_view> names;
    for (const Node& node : form.graph.nodes())
        names.push_back(node.op->name());
    EXPECT_THAT(names, testing::ElementsAre("residual_norm", "add", "functional", "residual_norm_gradient"));
}

TEST(ResidualNorm, RmsNormHasNoBias) {
    Graph graph;
    const TensorType x{{4, 8}, DType::f32}, row{{8}, DType::f32};
    const ValueId a = graph.input("a", x), scale = graph.input("scale", row);
    EXPECT_THAT([&] { ops::residual_norm(graph, "norm", Norm::rms_norm, a, a, scale, scale, epsilon); },
                ThrowsMessage<ConfigError>(HasSubstr("rms_norm has no bias")));
}
