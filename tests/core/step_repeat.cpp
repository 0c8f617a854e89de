// SPDX-License-Identifier: Apache-2.0
// A step computed twice: one flipped bit is found, laid to the right rank and tensor, and left out; one that flips
// again and again ends the run; and where nothing errs, nothing is found and no bit changes.
#include "core/run/step_repeat.hpp"

#include "kernels/error.hpp"
#include "tests/core/tiny_recurrent.hpp"
#include "tests/core/training_on_mesh.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;

namespace {

using Words = std::vector<std::string>;
using Calls = std::set<int>; // of a node, from 0

// Flips a bit of what it makes, at some calls, at each another one.
class Flipping final : public Op {
public:
    Flipping(OpPointer op, Calls calls) : op_(std::move(op)), calls_(std::move(calls)) {}
    std::string_view name() const override { return op_->name(); }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return op_->infer(in); }
    std::optional<Transfer> transfer() const override { return op_->transfer(); }
    void run(Stream& stream, const Operands& a) const override {
        op_->run(stream, a);
        const int call = call_++;
        if (!calls_.contains(call)) return;
        HostCopy copy(stream, a.outputs[0]);
        copy.load();
        static_cast<std::uint32_t*>(copy.view().memory())[call % 3] ^= 1u << (20 + call % 3);
        copy.store();
    }

private:
    OpPointer op_;
    Calls calls_;
    mutable int call_ = 0;
};

struct Planted {
    int rank;
    std::string value;
    Calls calls;
};

void plant(const Planted& fault, Plan& plan, int rank) {
    if (rank != fault.rank) return;
    std::deque<Node> nodes = plan.graph.nodes();
    for (Node& node : nodes)
        if (!node.outputs.empty() && plan.graph.value(node.outputs[0]).name == fault.value)
            node.op = std::make_shared<Flipping>(node.op, fault.calls);
    plan.graph.replace_nodes(std::move(nodes));
}

struct Outcome {
    std::vector<std::string> said; // by step: of rank 0, and the same on all; the last is what was thrown, if any
    std::vector<std::vector<std::uint32_t>> weights; // by rank
};

constexpr std::int64_t steps = 3;

Outcome train(const Config& config, int ranks, const std::vector<Planted>& faults = {}) {
    std::vector<std::vector<std::string>> said(static_cast<std::size_t>(ranks));
    Outcome outcome;
    outcome.weights.resize(static_cast<std::size_t>(ranks));
    run_as_threads(make_mesh(config, ranks), [&](int rank, Groups groups) {
        const auto place = static_cast<std::size_t>(rank);
        TinyTraining training(config, rank, std::move(groups), [&](Plan& plan, int of_rank) {
            for (const Planted& fault : faults)
                plant(fault, plan, of_rank);
        });
        Stream host = CpuStream(1);
        StepRepeat repeat({training.config, *training.dataset, training.groups, training.stream, host},
                          training.experiment, training.executor);
        try {
            for (std::int64_t step = 0; step < steps; ++step) {
                if (!repeat.due(step)) {
                    training.step(step);
                    continue;
                }
                const StepState state = training.state_of(step);
                said[place].push_back(
                    repeat.run(state, [&] { training.loader.next(training.stream, training.executor.batch()); }));
                training.executor.update(state);
            }
        } catch (const SystemError& error) {
            said[place].emplace_back(error.what());
        }
        outcome.weights[place] = training.weights();
    });
    for (const std::vector<std::string>& of_rank : said)
        EXPECT_EQ(of_rank, said[0]) << "ranks differ";
    outcome.said = said[0];
    return outcome;
}

Words with(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

const Words each{"guard.repeat_interval=1"};
const std::vector<std::string> nothing(steps, "");
constexpr const char* hidden = "layers.1.mlp.up";

} // namespace

TEST(StepRepeat, FindsNothingWhereNothingIsAndChangesNoBit) {
    const auto check = [](const Words& words, int ranks, const auto& config) {
        const Outcome plain = train(config(words), ranks), repeated = train(config(with(words, each)), ranks);
        EXPECT_EQ(repeated.said, nothing) << testing::PrintToString(words);
        EXPECT_TRUE(repeated.weights == plain.weights) << testing::PrintToString(words);
    };
    const auto gpt = [](const Words& words) { return tiny_config(words); };
    for (const Variant& variant : variants())
        check(variant.overrides, 1, gpt);
    for (const Words& words : std::vector<Words>{{"parallelism.zero_stage=3"},
                                                 {"parallelism.tensor_parallel_degree=2", "model.dropout=0.1"},
                                                 {"parallelism.pipeline_parallel_degree=2"},
                                                 {"model.moe_experts=2", "parallelism.expert_parallel_degree=2"}})
        check(words, 2, gpt);
    check({"training.global_batch_size=10", "parallelism.zero_stage=1"}, 3, gpt); // uneven shares
    check({"training.global_batch_size=6", "model.moe_experts=2", "parallelism.expert_parallel_degree=2"}, 2, gpt);
    check({}, 2, [](const Words& words) { return recurrent_config(words); });
    check({}, 2, [](const Words& words) { return image_config(tiny_resnet, words); });
}

TEST(StepRepeat, ABitThatFlipsOnceIsFoundNamedAndLeftOut) {
    const Outcome plain = train(tiny_config(), 3);
    const auto expect = [&](const Planted& fault, const char* which, const std::string& place) {
        const Outcome found = train(tiny_config(each), 3, {fault});
        ASSERT_EQ(found.said.size(), static_cast<std::size_t>(steps));
        EXPECT_EQ(found.said[0], "");
        EXPECT_THAT(found.said[1],
                    AllOf(HasSubstr("transient fault at step 2: rank 1: '" + fault.value + "' (" + place),
                          HasSubstr(std::string("the ") + which + " of three computations differs"),
                          HasSubstr("(such faults so far: 1)")));
        EXPECT_EQ(found.said[2], "");
        EXPECT_TRUE(found.weights == plain.weights) << "what was flipped is in the weights";
    };
    // 8 micro-batches on 3 ranks: rank 1 has 2 of them; step 1 takes two computations.
    const int in_step = 2, before = 2 * in_step;
    expect({1, hidden, {before + 1}}, "first", "forward pass, its micro-batch 2) on ");
    expect({1, hidden, {before + in_step}}, "second", "forward pass, its micro-batch 1) on ");
}

TEST(StepRepeat, AFaultThatLastsEndsTheRun) {
    Calls always;
    for (int call = 0; call < 100; ++call)
        always.insert(call);
    const Outcome found = train(tiny_config(each), 2, {{1, hidden, always}});
    ASSERT_EQ(found.said.size(), 1U);
    EXPECT_THAT(found.said[0],
                AllOf(HasSubstr("lasting fault at step 1: rank 1: '" + std::string(hidden) + "' (forward pass"),
                      HasSubstr("three computations from the same weights and samples all differ")));
}

TEST(StepRepeat, ARankThatErrsTwiceInARowEndsTheRun) {
    // 4 micro-batches each; the first check takes three computations.
    const Outcome found = train(tiny_config(each), 2, {{0, hidden, {1, 3 * 4 + 2}}});
    ASSERT_EQ(found.said.size(), 2U);
    EXPECT_THAT(found.said[0], HasSubstr("transient fault at step 1: rank 0: "));
    EXPECT_THAT(found.said[1], AllOf(HasSubstr("lasting fault at step 2: rank 0: "),
                                     HasSubstr("two computations differ, as the time before")));
    const Outcome others = train(tiny_config(each), 2, {{0, hidden, {1}}, {1, hidden, {3 * 4 + 2}}});
    ASSERT_EQ(others.said.size(), static_cast<std::size_t>(steps));
    EXPECT_THAT(others.said[1], AllOf(HasSubstr("transient fault at step 2: rank 1: "), HasSubstr("so far: 2)")));
}

// Of ranks that compute one thing together, the one that began it is named.
TEST(StepRepeat, LaysAFaultToTheRankThatBeganIt) {
    for (const Words& words : std::vector<Words>{{"parallelism.tensor_parallel_degree=2"},
                                                 {"parallelism.pipeline_parallel_degree=2"},
                                                 {"parallelism.zero_stage=3"}})
        for (const int rank : {0, 1}) {
            const std::string value =
                words[0].find("pipeline") == std::string::npos || rank == 1 ? hidden : "layers.0.mlp.up";
            const Outcome found = train(tiny_config(with(words, each)), 2, {{rank, value, {1}}});
            ASSERT_EQ(found.said.size(), static_cast<std::size_t>(steps)) << words[0];
            EXPECT_THAT(found.said[0], HasSubstr(fmt::format("transient fault at step 1: rank {}: '{}'", rank, value)))
                << words[0];
        }
}

TEST(StepRepeat, IsRefusedWhereBitsChangeByThemselves) {
    const auto refusal = [](const Words& words) {
        try {
            StepRepeat::check_keys(tiny_config(words));
        } catch (const ConfigError& error) {
            return std::string(error.what());
        }
        return std::string();
    };
    EXPECT_THAT(refusal({"guard.repeat_interval=5", "run.reproducible=false"}), HasSubstr("run.reproducible = true"));
    EXPECT_THAT(refusal({"guard.repeat_interval=-1"}), HasSubstr("must be at least 0"));
    EXPECT_EQ(refusal({"guard.repeat_interval=5"}), "");
}
