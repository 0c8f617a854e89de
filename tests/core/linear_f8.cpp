// SPDX-License-Identifier: Apache-2.0
// linear_f8 and its gradients against linear's, of the same numbers before they are rounded; what is in the plan; what
// is refused.
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"
#include "tests/core/functional.hpp"
#include "tests/core/graph_run.hpp"
#include "tests/core/tiny_gpt.hpp"

#include <cmath>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

// x, w and bias, y = linear(x, w, bias), and the gradients of the sum of coefficients * y.
struct Layer {
    Graph graph;
    ValueId x = no_value, w = no_value, bias = no_value, y = no_value, coefficients = no_value;
    std::vector<ValueId> gradients; // of x, w and bias

    Layer(const Shape& x_shape, const Shape& w_shape, int contracted, bool f8) {
        Shape bias_shape = w_shape.slice(0, w_shape.rank() - contracted);
        x = graph.parameter("x", x_shape, {"", -1, {}, false});
        w = graph.parameter("w", w_shape, {"", -1, {}, false});
        bias = graph.parameter("bias", bias_shape, {"", -1, {}, false});
        const ValueId input = ops::cast(graph, "input", x, DType::bf16);
        y = f8 ? ops::linear_f8(graph, "layer", ops::quantize(graph, "input.in_f8", input, DType::f8e4m3, contracted),
                                ops::quantize(graph, "w.in_f8", w, DType::f8e4m3, contracted), bias, contracted)
               : ops::linear(graph, "layer", input, ops::cast(graph, "w.in_use", w, DType::bf16), bias, contracted);
        coefficients = graph.input("coefficients", {graph.value(y).type.shape, DType::f32});
        gradients =
            differentiate(graph, graph.apply(std::make_shared<Functional>(), "functional", {y, coefficients})[1]);
    }

    // Small gradients and weights: the scales see to them.
    void fill(GraphRun& run) const {
        std::mt19937 generator(3);
        for (const auto& [id, size] : {std::pair(x, 1.0), {w, 0.02}, {bias, 0.1}, {coefficients, 1e-6}}) {
            fill_randomly(run[id], generator);
            for (std::int64_t i = 0; i < run[id].count(); ++i)
                run[id].set(i, static_cast<float>(BFloat16(static_cast<float>(run[id][i] * size))));
        }
    }
};

double distance(const Sample& found, const Sample& expected) {
    double difference = 0, norm = 0;
    for (std::int64_t i = 0; i < expected.count(); ++i) {
        difference += (found[i] - expected[i]) * (found[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    return std::sqrt(difference / norm);
}

void expect_near_linear(const Shape& x, const Shape& w, int contracted, const std::function<Stream()>& where) {
    const Layer exact(x, w, contracted, false), narrow(x, w, contracted, true);
    GraphRun exact_run(exact.graph), narrow_run(narrow.graph, where());
    exact.fill(exact_run);
    narrow.fill(narrow_run);
    exact_run.run({});
    narrow_run.run({});
    const auto expect_near = [&](const char* what, ValueId found, ValueId expected, DType dtype) {
        const double far = distance(narrow_run[found], exact_run[expected]);
        EXPECT_LE(far, tolerance(dtype, Kind::low_precision).relative) << what;
        EXPECT_GT(far, what == std::string("dbias") ? -1 : 1e-3) << what << " is not of 8 bits";
    };
    expect_near("y", narrow.y, exact.y, DType::f8e4m3);
    expect_near("dx", narrow.gradients[0], exact.gradients[0], DType::f8e5m2);
    expect_near("dw", narrow.gradients[1], exact.gradients[1], DType::f8e5m2);
    expect_near("dbias", narrow.gradients[2], exact.gradients[2], DType::bf16);
}

} // namespace

TEST(LinearF8, IsNearLinearOnTheCpu) {
    expect_near_linear({2, 24, 32}, {3, 4, 8, 32}, 1, [] { return Stream(CpuStream(2)); });
    expect_near_linear({2, 8, 4, 16}, {48, 4, 16}, 2, [] { return Stream(CpuStream(1)); });
}

TEST(LinearF8, IsNearLinearOnTheGpu) {
    if (!built_with_cuda) GTEST_SKIP() << "built without CUDA";
    expect_near_linear({2, 24, 32}, {3, 4, 8, 32}, 1, [] { return gpu_stream(0); });
    expect_near_linear({2, 8, 4, 16}, {48, 4, 16}, 2, [] { return gpu_stream(0); });
}

// Of what a layer keeps for its gradient, the input takes one byte an element instead of two.
TEST(LinearF8, KeepsActivationsInOneByte) {
    const auto bytes = [](const std::vector<std::string>& words) {
        std::vector<std::string> all{"training.dtype=bf16", "training.seq_len=32", "model.dim=64", "model.n_layers=6"};
        all.insert(all.end(), words.begin(), words.end());
        const Experiment experiment = plan_tiny(all, 0, 1);
        return experiment.train.plan.memory;
    };
    const MemoryNeed wide = bytes({}), narrow = bytes({"training.linear_dtype=f8"});
    EXPECT_LT(narrow[MemoryKind::activations], wide[MemoryKind::activations]);
    const std::int64_t elements = 6 * 12 * 64 * 64; // of the blocks' weights: in bf16, or twice in 8 bits
    EXPECT_NEAR(static_cast<double>(narrow[MemoryKind::weights] - wide[MemoryKind::weights]), 0, 0.02 * 2 * elements);
}

TEST(LinearF8, RefusesWhatDoesNotFit) {
    const auto plan = [](const std::vector<std::string>& words) {
        std::vector<std::string> all{"training.dtype=bf16", "training.linear_dtype=f8", "training.seq_len=16"};
        all.insert(all.end(), words.begin(), words.end());
        plan_tiny(all, 0, 1);
    };
    EXPECT_NO_THROW(plan({}));
    EXPECT_THAT([&] { plan({"model.dim=24"}); },
                ThrowsMessage<ConfigError>(HasSubstr("linear_f8 'layers.0.attention.qkv': a product of 8-bit factors "
                                                     "wants its sizes in multiples of 16, not 72 columns over 24")));
    EXPECT_THAT([&] { plan({"training.seq_len=12"}); }, // 24 tokens, which the weight's gradient sums over
                ThrowsMessage<ConfigError>(HasSubstr("weight_gradient': a product of 8-bit factors wants")));
    EXPECT_THAT([&] { plan({"training.dtype=f32"}); },
                ThrowsMessage<ConfigError>(HasSubstr("\"f8\" wants training.dtype = \"bf16\", not \"f32\"")));
    EXPECT_THAT([&] { plan({"training.linear_dtype=fp8"}); },
                ThrowsMessage<ConfigError>(HasSubstr("did you mean 'f8'")));
}
