// SPDX-License-Identifier: Apache-2.0
// Plans of a pipeline's stages: what each runs, keeps, holds and sends.
#include "core/plan/traffic.hpp"
#include "core/run/experiment.hpp"
#include "kernels/error.hpp"
#include "parallel/strategies/pipeline_parallel.hpp"
#include "tests/core/tiny_gpt.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>

namespace tessera {
namespace {

std::vector<Experiment> plan_all(int stages, std::string_view schedule, std::vector<std::string> words,
                                 int others = 1) {
    words.push_back(fmt::format("parallelism.pipeline_parallel_degree={}", stages));
    words.push_back(fmt::format("parallelism.pipeline_schedule={}", schedule));
    const Config config = tiny_config(words);
    const auto dataset = tiny_dataset(config);
    std::vector<Experiment> plans;
    for (int stage = 0; stage < stages; ++stage)
        plans.push_back(plan_training(config, {stage * others, stages * others, true}, dataset.get(), CpuStream(1)));
    return plans;
}

TEST(Pipeline, IsCutByWorkIntoEvenPieces) {
    EXPECT_THAT(cut_evenly(std::vector<double>{1, 1, 1, 1, 1}, 2), testing::ElementsAre(0, 0, 1, 1, 1));
    EXPECT_THAT(cut_evenly(std::vector<double>{1, 1, 1, 1, 3}, 3), testing::ElementsAre(0, 0, 1, 1, 2));
    EXPECT_THAT(cut_evenly(std::vector<double>{5, 1, 1, 1, 1}, 3), testing::ElementsAre(0, 1, 1, 2, 2));
    EXPECT_THAT(cut_evenly(std::vector<double>{2, 2}, 2), testing::ElementsAre(0, 1));
    EXPECT_THROW(cut_evenly(std::vector<double>{1}, 2), InternalError);
}

// Every node of the whole model's micro-batch runs on one stage, every weight and state rests on one.
TEST(Pipeline, StagesShareOutTheModel) {
    for (const std::string_view schedule : {"1f1b", "zero_bubble", "interleaved"}) {
        const std::vector<Experiment> stages = plan_all(4, schedule, {"model.n_layers=9"});
        std::multiset<std::string> run;
        std::int64_t parameters = 0;
        for (const Experiment& stage : stages) {
            const Plan& plan = stage.train.plan;
            for (const Phase phase : {Phase::forward, Phase::backward})
                for (const Call& call : plan.calls(phase))
                    run.insert(plan.graph.nodes()[static_cast<std::size_t>(call.node)].name);
            for (const ValueId id : plan.graph.of_kind(ValueKind::parameter))
                parameters += plan.value(id).box.count();
        }
        const Experiment alone = plan_all(1, "1f1b", {"model.n_layers=9"})[0];
        std::multiset<std::string> expected;
        for (const Phase phase : {Phase::forward, Phase::backward})
            for (const Call& call : alone.train.plan.calls(phase))
                expected.insert(alone.train.plan.graph.nodes()[static_cast<std::size_t>(call.node)].name);
        EXPECT_EQ(run, expected) << schedule;
        EXPECT_EQ(parameters, parameter_count(alone.train.model.graph)) << schedule;
    }
}

// What one stage sends another receives, on the same channel.
TEST(Pipeline, MessagesMeet) {
    for (const std::string_view schedule : {"gpipe", "zero_bubble", "interleaved"}) {
        using Route = std::tuple<int, int, int>; // from, to, channel
        std::multiset<Route> sent, received;
        const std::vector<Experiment> stages = plan_all(4, schedule, {"model.n_layers=8"});
        for (int stage = 0; stage < 4; ++stage)
            for (const Part& part : stages[static_cast<std::size_t>(stage)].train.plan.parts) {
                for (const StageMessage& message : part.sends)
                    sent.insert({stage, message.peer, message.channel});
                for (const StageMessage& message : part.receives)
                    received.insert({message.peer, stage, message.channel});
            }
        EXPECT_EQ(sent, received) << schedule;
        EXPECT_EQ(std::set<Route>(sent.begin(), sent.end()).size(), sent.size()) << schedule;
        EXPECT_GE(sent.size(), 2 * 3) << schedule;
    }
}

// A GPU's queue of messages: each waits for the one before, for its partner, and for the tasks before it; a task for
// the messages before it.
class Queues {
public:
    Queues(std::vector<const Plan*> plans, const Layout& layout)
        : plans_(std::move(plans)), sent_(plans_.size()), run_(plans_.size()) {
        for (std::size_t stage = 0; stage < plans_.size(); ++stage)
            messages_.push_back(transmissions_of(*plans_[stage], layout, static_cast<int>(stage)));
    }

    std::size_t messages() const { return messages_[0].size(); }

    // Whether all stages come to their ends.
    bool run() {
        for (bool moved = true; moved;) {
            moved = false;
            for (std::size_t stage = 0; stage < plans_.size(); ++stage)
                while (run_task(stage) || pass_message(stage))
                    moved = true;
        }
        for (std::size_t stage = 0; stage < plans_.size(); ++stage)
            if (run_[stage] < plans_[stage]->tasks.size() || next(stage) != nullptr) return false;
        return true;
    }

private:
    const Transmission* next(std::size_t stage) const {
        return sent_[stage] < messages_[stage].size() ? &messages_[stage][sent_[stage]] : nullptr;
    }

    bool run_task(std::size_t stage) {
        const bool waits = next(stage) != nullptr && next(stage)->task <= run_[stage];
        if (waits || run_[stage] == plans_[stage]->tasks.size()) return false;
        ++run_[stage];
        return true;
    }

    bool pass_message(std::size_t stage) {
        const Transmission* mine = next(stage);
        if (mine == nullptr || mine->task > run_[stage]) return false;
        const auto peer = static_cast<std::size_t>(mine->message.peer);
        const Transmission* theirs = next(peer);
        if (theirs == nullptr || theirs->task > run_[peer] || theirs->message.peer != static_cast<int>(stage))
            return false;
        EXPECT_NE(mine->sends, theirs->sends);
        EXPECT_EQ(mine->message.channel, theirs->message.channel);
        ++sent_[stage];
        ++sent_[peer];
        return true;
    }

    std::vector<const Plan*> plans_;
    std::vector<std::vector<Transmission>> messages_;
    std::vector<std::size_t> sent_, run_;
};

// The steps of training and evaluation come to their ends, with at least so many messages.
void expect_to_end(const std::vector<Experiment>& stages, std::size_t messages) {
    std::vector<const Plan*> training, evaluation;
    for (const Experiment& stage : stages) {
        training.push_back(&stage.train.plan);
        evaluation.push_back(&stage.evaluate.plan);
    }
    Queues of_training(training, stages[0].train.layout);
    EXPECT_GE(of_training.messages(), messages);
    EXPECT_TRUE(of_training.run());
    Queues of_evaluation(evaluation, stages[0].evaluate.layout);
    EXPECT_GE(of_evaluation.messages(), evaluation[0]->share.size());
    EXPECT_TRUE(of_evaluation.run());
}

TEST(Pipeline, MessagesHaveOneOrderInWhichNobodyWaitsForEver) {
    for (const std::string_view schedule : {"gpipe", "1f1b", "zero_bubble", "interleaved"})
        for (const int count : {2, 4})
            for (const int layers : {8, 12}) {
                SCOPED_TRACE(fmt::format("{}, {} stages, {} layers", schedule, count, layers));
                expect_to_end(plan_all(count, schedule, {fmt::format("model.n_layers={}", layers)}), 8 * 2);
            }
}

// Places of masked tokens, segments and an encoder's memory lead past stages; stages need not be cut between the two
// stacks of T5.
TEST(Pipeline, NobodyWaitsForEverWhereMoreThanALayersSumIsSent) {
    for (const std::string_view schedule : {"gpipe", "1f1b", "zero_bubble", "interleaved"})
        for (const std::string type : {"bert", "t5"})
            for (const int decoder_layers : {1, 3, 6}) {
                SCOPED_TRACE(fmt::format("{}, {}, {} layers of a decoder", schedule, type, decoder_layers));
                expect_to_end(plan_all(schedule == "interleaved" ? 2 : 3, schedule,
                                       {"model.type=" + type, "model.n_layers=4", "model.padding_token=3",
                                        fmt::format("model.decoder_layers={}", decoder_layers)}),
                              8 * 2);
            }
}

// A layer that takes what a later one makes: the first stage would wait for the second, which waits for it.
TEST(Pipeline, RefusesMessagesThatWouldBeWaitedForForEver) {
    const Config config = tiny_config({"parallelism.pipeline_parallel_degree=2"});
    const auto dataset = tiny_dataset(config);
    Experiment stage = plan_training(config, {0, 2, true}, dataset.get(), CpuStream(1));
    Graph& graph = stage.train.model.graph;
    std::deque<Node> nodes = graph.nodes();
    for (Node& node : nodes)
        if (node.name.starts_with("layers.0.attention")) node.layer = 1;
    graph.replace_nodes(std::move(nodes));
    EXPECT_THAT(
        [&] { make_plan(graph, stage.train.layout, 0, CpuStream(1)); },
        testing::ThrowsMessage<InternalError>(testing::HasSubstr("of the pipeline to chunk 0, which comes before it")));
}

// Activations are kept for the micro-batches under way: all of them in gpipe, as many as stages follow in 1f1b.
TEST(Pipeline, KeepsWhatItsScheduleNeeds) {
    const auto kept = [](std::string_view schedule) {
        std::vector<int> counts;
        for (const Experiment& stage : plan_all(4, schedule, {"model.n_layers=4", "model.tied_head=false"})) {
            EXPECT_EQ(stage.train.plan.frames.size(), 1);
            EXPECT_GT(stage.train.plan.frames[0].bytes, 0);
            counts.push_back(stage.train.plan.frames[0].count);
        }
        return counts;
    };
    EXPECT_THAT(kept("gpipe"), testing::ElementsAre(8, 8, 8, 8));
    EXPECT_THAT(kept("1f1b"), testing::ElementsAre(4, 3, 2, 1));
    EXPECT_THAT(kept("zero_bubble"), testing::ElementsAre(4, 4, 4, 4));
}

// Without stages a schedule says nothing: there is one frame.
TEST(Pipeline, OneStageTakesEachMicroBatchToItsEnd) {
    for (const std::string_view schedule : {"gpipe", "zero_bubble", "interleaved"}) {
        const std::vector<PlannedTask> tasks = plan_all(1, schedule, {})[0].train.plan.tasks;
        ASSERT_EQ(tasks.size(), 2 * 8) << schedule;
        for (std::size_t i = 0; i < tasks.size(); ++i)
            EXPECT_EQ(tasks[i].micro_batch, static_cast<std::int64_t>(i / 2)) << schedule;
    }
}

// A weight that two stages gather, each for itself, is no message.
TEST(Pipeline, GathersAWeightWhereItIsUsed) {
    const Config config = tiny_config({"parallelism.pipeline_parallel_degree=2", "parallelism.zero_stage=3"});
    const auto dataset = tiny_dataset(config);
    for (const int rank : {0, 2}) {
        const Plan plan = plan_training(config, {rank, 4, true}, dataset.get(), CpuStream(1)).train.plan;
        for (const Part& part : plan.parts)
            for (const StageMessage& message : part.sends)
                EXPECT_THAT(plan.graph.value(message.value).name, testing::Not(testing::HasSubstr("all_gather")));
        EXPECT_FALSE(plan.routes.empty());
    }
}

// In a pipeline with a split backward pass the gradients of weights, and they alone, are left for later.
TEST(Pipeline, LeavesTheGradientsOfWeightsForLater) {
    for (const Experiment& stage : plan_all(2, "zero_bubble", {"model.n_layers=4", "model.tied_head=false"})) {
        const Plan& plan = stage.train.plan;
        std::set<std::string> later;
        for (const Part& part : plan.parts)
            for (std::int64_t i = part.calls.begin; part.work == Work::weights && i < part.calls.end; ++i) {
                const Call& call = plan.calls(part.phase)[static_cast<std::size_t>(i)];
                for (const ValueId id : plan.graph.nodes()[static_cast<std::size_t>(call.node)].outputs)
                    later.insert(std::string(plan.graph.value(id).accumulated ? "sums" : plan.graph.value(id).name));
            }
        EXPECT_THAT(later, testing::Contains("sums"));
        std::int64_t linear = 0; // layers have four weights of products
        for (const Part& part : plan.parts)
            for (std::int64_t i = part.calls.begin; part.work == Work::weights && i < part.calls.end; ++i) {
                const Call& call = plan.calls(part.phase)[static_cast<std::size_t>(i)];
                const Node& node = plan.graph.nodes()[static_cast<std::size_t>(call.node)];
                linear += node.op->name() == "linear_weight_gradient" && node.layer >= 0 ? 1 : 0;
            }
        EXPECT_EQ(linear, 2 * 4);
    }
}

TEST(Pipeline, PredictsItsBubble) {
    const auto predicted = [](std::string_view schedule, int layers) {
        const Experiment stage = plan_all(4, schedule, {fmt::format("model.n_layers={}", layers)})[0];
        return bubble(stage.train.plan, stage.train.layout);
    };
    const double one = predicted("1f1b", 64);
    EXPECT_NEAR(one, 3.0 / (8 + 3), 0.02); // stages are even up to one layer of 64
    EXPECT_NEAR(predicted("gpipe", 64), one, 1e-9);
    EXPECT_NEAR(predicted("interleaved", 64), 1.5 / (8 + 1.5), 0.03);
    EXPECT_LT(predicted("zero_bubble", 64), 0.6 * one);
}

TEST(Pipeline, RefusesWhatItCannotCut) {
    EXPECT_THROW(plan_all(4, "1f1b", {"model.n_layers=3"}), ConfigError);
    EXPECT_THROW(plan_all(2, "interleaved", {"model.n_layers=3"}), ConfigError);
    EXPECT_THROW(plan_all(3, "interleaved", {"model.n_layers=6"}), ConfigError); // 8 micro-batches in threes
}

} // namespace
} // namespace tessera
