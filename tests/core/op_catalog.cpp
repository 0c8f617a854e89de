// SPDX-License-Identifier: Apache-2.0
// To be in the catalog is to be tested: for every op, gradient = finite differences, sharded = whole, in place =
// beside, bf16 and f16 near f32.
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"
#include "tests/core/functional.hpp"
#include "tests/core/sharded_run.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <numeric>
#include <optional>

using namespace tessera;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

const StepState some_state{.seed = 3, .step = 7, .first_sample = 5, .learning_rate = 0};

// An op of the catalog on its example's inputs and, where one of them is differentiable, its gradient.
struct OpGraph {
    Graph graph;
    std::vector<ValueId> leaves;     // the op's inputs; parameters where they are differentiable, always f32 or i32
    std::vector<ValueId> parameters; // of these
    std::vector<ValueId> gradients;
    std::vector<ValueId> outputs;
    ValueId result = no_value;       // what the loss is a function of, where the op is no loss itself
    ValueId loss = no_value;         // of which the gradient is taken
    ValueId coefficients = no_value; // of the loss; none where the op is a loss itself
};

// It computes its inputs' gradients itself, as the last output's, which a third input scales.
bool is_loss(const Op& op) {
    for (const std::string_view name : {"binary_cross_entropy", "cross_entropy", "huber", "mean_absolute_error",
                                        "mean_squared_error", "smoothed_cross_entropy", "soft_cross_entropy"})
        if (op.name() == name) return true;
    return false;
}

// `in_bf16`: by input, whether it reaches the op in bf16, or in another `narrow` type. ConfigError when the op refuses.
OpGraph op_graph(const OpPointer& op, const std::vector<bool>& in_bf16, DType narrow = DType::bf16) {
    OpGraph made;
    Graph& graph = made.graph;
    std::vector<ValueId> inputs;
    const std::vector<ExampleInput> example = op->example();
    for (std::size_t i = 0; i < example.size(); ++i) {
        const std::string name = fmt::format("input {}", i);
        if (example[i].differentiable)
            made.leaves.push_back(graph.parameter(name, example[i].type.shape, {"", -1, {}, false}));
        else if (example[i].of_step)
            made.leaves.push_back(graph.step_input(name, example[i].type, example[i].of_step));
        else
            made.leaves.push_back(graph.input(name, example[i].type));
        if (example[i].differentiable) made.parameters.push_back(made.leaves.back());
        inputs.push_back(in_bf16[i] ? ops::cast(graph, name + " narrow", made.leaves.back(), narrow)
                                    : made.leaves.back());
    }
    made.outputs = graph.apply(op, "example", inputs);
    if (made.parameters.empty()) return made;
    if (is_loss(*op)) {
        made.loss = made.outputs[1];
    } else {
        made.coefficients = graph.input("coefficients", {graph.value(made.outputs[0]).type.shape, DType::f32});
        made.result = made.outputs[0];
        if (op->name() == "residual_norm") // both of its results are used
            made.result = ops::add(graph, "results", made.outputs[0], made.outputs[1]);
        made.loss = graph.apply(std::make_shared<Functional>(), "functional", {made.result, made.coefficients})[1];
    }
    made.gradients = differentiate(graph, made.loss);
    return made;
}

// The same order of the elements, but each at least a quarter from the next: a small step changes no maximum.
void spread(Sample& sample) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(sample.count()));
    std::iota(order.begin(), order.end(), 0);
    std::ranges::sort(order, {}, [&](std::int64_t i) { return sample[i]; });
    for (std::size_t place = 0; place < order.size(); ++place)
        sample.set(order[place], 0.25 * (static_cast<double>(place) - static_cast<double>(order.size() / 2)));
}

// Random values, away from zero where a function may have a kink, and such that rounding to bf16 keeps them.
void fill_leaves(const OpGraph& made, const std::vector<ExampleInput>& example, GraphRun& run) {
    std::mt19937 generator(11);
    const auto round = [](Sample& sample) {
        for (std::int64_t i = 0; i < sample.count() && sample.dtype() == DType::f32; ++i) {
            const double away = std::abs(sample[i]) < 0.2 ? sample[i] + std::copysign(0.2, sample[i]) : sample[i];
            sample.set(i, static_cast<float>(BFloat16(static_cast<float>(away))));
        }
    };
    for (std::size_t i = 0; i < example.size(); ++i) {
        if (example[i].of_step) continue;
        fill_randomly(run[made.leaves[i]], generator, example[i].offset, example[i].below);
        round(run[made.leaves[i]]);
    }
    if (std::ranges::any_of(made.graph.nodes(), [](const Node& node) { return node.op->name() == "max_pool"; }))
        spread(run[made.leaves[0]]);
    if (made.coefficients == no_value) return;
    fill_randomly(run[made.coefficients], generator);
    round(run[made.coefficients]);
}

// In double, from the op's own results.
double loss_of(const OpGraph& made, GraphRun& run) {
    if (made.coefficients == no_value) return run[made.leaves[2]][0] * run[made.loss][0]; // scale * loss
    double sum = 0;
    for (std::int64_t i = 0; i < run[made.coefficients].count(); ++i)
        sum += run[made.coefficients][i] * run[made.result][i];
    return sum;
}

double norm_of(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values)
        sum += value * value;
    return std::sqrt(sum);
}

// Every choice of floating inputs in bf16 but the empty one.
std::vector<std::vector<bool>> choices_in_bf16(const std::vector<ExampleInput>& example) {
    std::vector<std::vector<bool>> choices;
    for (unsigned bits = 1; bits < 1u << example.size(); ++bits) {
        std::vector<bool> choice;
        bool floating = true;
        for (std::size_t i = 0; i < example.size(); ++i) {
            choice.push_back((bits >> i & 1u) != 0);
            floating = floating && (!choice.back() || example[i].type.dtype != DType::i32);
        }
        if (floating) choices.push_back(choice);
    }
    return choices;
}

std::vector<bool> all_in_f32(const OpPointer& op) { return std::vector<bool>(op->example().size()); }

class CatalogOp : public testing::TestWithParam<int> {
protected:
    const OpPointer op_ = op_catalog()[static_cast<std::size_t>(GetParam())];
    const std::vector<ExampleInput> example_ = op_->example();
};

std::string op_label(const testing::TestParamInfo<int>& info) {
    return fmt::format("{}_{}", info.param, op_catalog()[static_cast<std::size_t>(info.param)]->name());
}

INSTANTIATE_TEST_SUITE_P(All, CatalogOp, testing::Range(0, static_cast<int>(op_catalog().size())), op_label);

} // namespace

// Forward and gradient, in f32 and in every choice of inputs in bf16.
TEST_P(CatalogOp, CudaIsCpu) {
    if constexpr (!built_with_cuda) GTEST_SKIP() << "built without CUDA";
    std::vector<std::vector<bool>> choices = choices_in_bf16(example_);
    choices.insert(choices.begin(), all_in_f32(op_));
    for (const std::vector<bool>& choice : choices) {
        std::optional<OpGraph> made;
        try {
            made = op_graph(op_, choice);
        } catch (const ConfigError&) {
            continue; // an op that does not take these types
        }
        GraphRun cpu(made->graph), cuda(made->graph, gpu_stream(0));
        for (GraphRun* run : {&cpu, &cuda}) {
            fill_leaves(*made, example_, *run);
            run->run(some_state);
        }
        const bool low_precision = std::find(choice.begin(), choice.end(), true) != choice.end();
        for (std::size_t i = 0; i < made->graph.values().size(); ++i) {
            const auto id = static_cast<ValueId>(i);
            if (low_precision && id == made->loss) continue; // sums the roundings of all others
            const std::vector<double> expected = cpu[id].values();
            double largest = 0;
            for (const double value : expected)
                largest = std::max(largest, std::abs(value));
            const Tolerance allowed = tolerance(low_precision ? DType::bf16 : DType::f32, Kind::other_device);
            EXPECT_TRUE(close_to(cuda[id], expected, allowed, std::vector<double>(expected.size(), largest)))
                << made->graph.value(id).name << ", inputs in bf16: " << testing::PrintToString(choice);
        }
    }
}

TEST_P(CatalogOp, GradientIsFiniteDifferences) {
    ASSERT_FALSE(example_.empty());
    OpGraph made = op_graph(op_, all_in_f32(op_));
    if (made.parameters.empty()) {
        const std::vector<ValueId> none(made.outputs.size(), no_value);
        EXPECT_THAT([&] { op_->gradient(made.graph, made.graph.nodes().back(), none); },
                    ThrowsMessage<InternalError>(AllOf(HasSubstr(std::string(op_->name())), HasSubstr("no gradient"))));
        return;
    }
    GraphRun run(made.graph);
    fill_leaves(made, example_, run);
    run.run(some_state);
    const Samples gradients = run.samples(made.gradients);
    const Samples middle = run.samples(made.parameters);
    std::mt19937 generator(5);
    for (std::size_t moved = 0; moved < made.parameters.size(); ++moved) // each input alone, in three directions
        for (int repetition = 0; repetition < 3; ++repetition) {
            Sample direction(middle[moved].view().shape, DType::f32);
            fill_randomly(direction, generator);
            const auto loss_at = [&](double distance) {
                for (std::int64_t i = 0; i < direction.count(); ++i)
                    run[made.parameters[moved]].set(i, middle[moved][i] + distance * direction[i]);
                run.run(some_state);
                return loss_of(made, run);
            };
            const double h = 0.02; // five points: an error of the order h^4
            const double expected = (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h);
            loss_at(0);
            double found = 0;
            for (std::int64_t i = 0; i < direction.count(); ++i)
                found += gradients[moved][i] * direction[i];
            const double magnitude = norm_of(gradients[moved].values());
            EXPECT_GT(magnitude, 0);
            EXPECT_NEAR(found, expected, tolerance(DType::f32, Kind::directional).relative * magnitude)
                << "input " << moved << ", gradient's norm " << magnitude;
        }
}

// The op itself and every node that its gradient appends.
TEST_P(CatalogOp, ShardedIsWhole) {
    std::vector<std::vector<bool>> choices = choices_in_bf16(example_);
    choices.push_back(all_in_f32(op_));
    for (const std::vector<bool>& in_bf16 : choices) {
        OpGraph made;
        try {
            made = op_graph(op_, in_bf16);
        } catch (const ConfigError&) {
            continue;
        }
        GraphRun run(made.graph);
        fill_leaves(made, example_, run);
        run.run(some_state, [&](const Node& node) {
            // A score's place follows from its row's number among all.
            if (node.op->name() == "functional" || node.op->name() == "place_scores") return;
            const Samples inputs = run.samples(node.inputs);
            std::vector<TensorType> outputs;
            for (const ValueId output : node.outputs)
                outputs.push_back(made.graph.value(output).type);
            const std::vector<PlacementRule> rules = node.op->placements(types_of(views_of(inputs)));
            EXPECT_FALSE(rules.empty()) << node.op->name();
            for (std::size_t rule = 0; rule < rules.size(); ++rule)
                for (const int ranks : {2, 3}) {
                    SCOPED_TRACE(fmt::format("{}, rule {} ({} -> {}), {} ranks", node.op->name(), rule,
                                             rules[rule].inputs[0].text(), rules[rule].outputs[0].text(), ranks));
                    expect_sharded_is_whole(*node.op, inputs, outputs, rules[rule], ranks);
                }
        });
    }
}

TEST_P(CatalogOp, InPlaceGivesTheSameBits) {
    OpGraph made = op_graph(op_, all_in_f32(op_));
    GraphRun run(made.graph);
    fill_leaves(made, example_, run);
    run.run(some_state, [&](const Node& node) {
        if (node.op->in_place_input() < 0) return;
        const auto position = static_cast<std::size_t>(node.op->in_place_input());
        const Samples inputs = run.samples(node.inputs), changed = inputs;
        Samples beside = run.samples(node.outputs), outputs = beside;
        ASSERT_EQ(inputs[position].bytes(), outputs[0].bytes());
        run_op(*node.op, views_of(inputs), views_of(beside));
        std::vector<View> targets = views_of(outputs);
        targets[0] = changed[position].view();
        run_op(*node.op, views_of(changed), targets);
        EXPECT_TRUE(changed[position].same_bits(beside[0])) << node.op->name();
        for (std::size_t i = 1; i < outputs.size(); ++i)
            EXPECT_TRUE(outputs[i].same_bits(beside[i])) << node.op->name() << " output " << i;
    });
}

// Returns how many choices of inputs in the `narrow` type the op accepts.
static int expect_near_f32(const OpPointer& op, const std::vector<ExampleInput>& example, DType narrow) {
    OpGraph exact = op_graph(op, all_in_f32(op));
    GraphRun exact_run(exact.graph);
    fill_leaves(exact, example, exact_run);
    exact_run.run(some_state);
    int accepted = 0;
    for (const std::vector<bool>& choice : choices_in_bf16(example)) {
        SCOPED_TRACE(fmt::format("{} {}", name_of(narrow), testing::PrintToString(choice)));
        OpGraph made;
        try {
            made = op_graph(op, choice, narrow);
        } catch (const ConfigError&) {
            continue; // refused with a sentence: what is accepted must run
        }
        ++accepted;
        GraphRun run(made.graph);
        fill_leaves(made, example, run);
        run.run(some_state);
        const auto check = [narrow](const Sample& found, const Sample& expected, const std::string& what) {
            std::vector<double> difference = expected.values();
            for (std::int64_t i = 0; i < found.count(); ++i)
                difference[static_cast<std::size_t>(i)] -= found[i];
            EXPECT_LE(norm_of(difference), tolerance(narrow, Kind::low_precision).relative * norm_of(expected.values()))
                << what;
        };
        for (std::size_t i = 0; i < made.outputs.size(); ++i)
            check(run[made.outputs[i]], exact_run[exact.outputs[i]], fmt::format("output {}", i));
        for (std::size_t i = 0; i < made.gradients.size(); ++i)
            check(run[made.gradients[i]], exact_run[exact.gradients[i]], fmt::format("gradient {}", i));
    }
    return accepted;
}

TEST_P(CatalogOp, LowPrecisionIsNear) {
    if (choices_in_bf16(example_).empty()) return; // it takes whole numbers alone
    for (const DType narrow : {DType::bf16, DType::f16})
        EXPECT_GT(expect_near_f32(op_, example_, narrow), 0) << name_of(narrow);
}

TEST_P(CatalogOp, RefusesIntegersForNumbers) {
    for (std::size_t i = 0; i < example_.size(); ++i) {
        Graph graph;
        std::vector<ValueId> inputs;
        for (std::size_t other = 0; other < example_.size(); ++other) {
            TensorType type = example_[other].type;
            if (other == i) type.dtype = type.dtype == DType::i32 ? DType::f32 : DType::i32;
            inputs.push_back(graph.input("", type));
        }
        EXPECT_THAT([&] { graph.apply(op_, "layers.3.wrong", inputs); },
                    ThrowsMessage<ConfigError>(
                        AllOf(HasSubstr(fmt::format("{} 'layers.3.wrong': ", op_->name())), HasSubstr("expected"))))
            << "input " << i;
    }
}
