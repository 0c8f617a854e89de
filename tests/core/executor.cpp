// SPDX-License-Identifier: Apache-2.0
// Training steps by the executor: equal to the plain run of the same graph, to the last bit on any number of ranks and
// threads, and reading nothing that was not written.
#include "core/run/executor.hpp"
#include "tests/core/graph_run.hpp"
#include "tests/core/training_record.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <mutex>

using namespace tessera;

namespace {

using Record = TrainingRecord;

// What every rank ends up with: all must agree.
Record train(const std::vector<std::string>& overrides, int ranks, int threads = 1, bool poisoned = false) {
    const std::vector<Record> records = train_on(ranks, overrides, poisoned, threads);
    for (const Record& record : records)
        EXPECT_EQ(record, records[0]);
    return records[0];
}

double loss_of(std::uint32_t bits) { return std::bit_cast<float>(bits); }

// The weights may be long: say only whether they agree.
void expect_same(const Record& found, const Record& expected) {
    EXPECT_EQ(found.losses, expected.losses);
    EXPECT_EQ(found.norms, expected.norms);
    EXPECT_TRUE(found.weights == expected.weights) << "the weights differ";
}

// The sum of leaves [begin, end) in the order of the tree: split at the largest power of two below their number.
std::vector<float> tree_sum(const std::vector<std::vector<float>>& leaves, std::size_t begin, std::size_t end) {
    if (end - begin == 1) return leaves[begin];
    const std::size_t left = std::bit_floor(end - begin - 1);
    std::vector<float> sum = tree_sum(leaves, begin, begin + left);
    const std::vector<float> right = tree_sum(leaves, begin + left, end);
    for (std::size_t i = 0; i < sum.size(); ++i)
        sum[i] += right[i];
    return sum;
}

// A step by GraphRun: every micro-batch with memory of its own for every value, sums in the order of the tree.
void plain_step(TinyTraining& training, Loader& loader, GraphRun& run, std::int64_t step) {
    const Graph& graph = training.program.model.graph;
    const Model& model = training.program.model;
    StepState state = training.state_of(step);
    run.run(state, {}, {Phase::prepare});
    std::vector<ValueId> sums;
    for (std::size_t i = 0; i < graph.values().size(); ++i)
        if (graph.values()[i].accumulated) sums.push_back(static_cast<ValueId>(i));
    std::vector<std::vector<std::vector<float>>> leaves(sums.size()); // by value and micro-batch
    for (std::int64_t batch = 0; batch < training.experiment.batch.micro_batches; ++batch) {
        loader.next(training.stream, std::vector<View>{run[model.inputs[0]].view(), run[model.inputs[1]].view()});
        state.first_sample = batch * training.experiment.batch.micro_batch;
        run.run(state, {}, {Phase::forward, Phase::backward});
        for (std::size_t i = 0; i < sums.size(); ++i)
            leaves[i].push_back(floats_of(run[sums[i]].view()));
    }
    for (std::size_t i = 0; i < sums.size(); ++i) {
        const std::vector<float> sum = tree_sum(leaves[i], 0, leaves[i].size());
        std::copy(sum.begin(), sum.end(), run[sums[i]].view().as<float>());
    }
    run.run(training.state_of(step), {}, {Phase::update});
}

} // namespace

class ExecutorOf : public testing::TestWithParam<Variant> {};

INSTANTIATE_TEST_SUITE_P(Variants, ExecutorOf, testing::ValuesIn(variants()),
                         [](const auto& variant) { return variant.param.name; });

// Memory shared by what does not live at once changes nothing.
TEST_P(ExecutorOf, StepIsThePlainRunOfTheGraph) {
    run_as_threads(1, [&](Communicator& communicator) {
        TinyTraining training(GetParam().overrides, communicator);
        const Graph& graph = training.program.model.graph;
        Loader loader(
            *training.dataset,
            SampleOrder(order_options(training.config, *training.dataset, Split::train, training.experiment.seed, 0)),
            training.experiment.train_loader(0));
        GraphRun run(graph);
        std::vector<ValueId> kept = graph.of_kind(ValueKind::parameter);
        const std::vector<ValueId> states = graph.of_kind(ValueKind::optimizer_state);
        kept.insert(kept.end(), states.begin(), states.end());
        for (const ValueId id : kept)
            std::memcpy(run[id].view().memory(), training.executor.view(id).data,
                        static_cast<std::size_t>(run[id].bytes()));
        for (int step = 0; step < 3; ++step) {
            training.step(step);
            plain_step(training, loader, run, step);
            EXPECT_EQ(training.loss(), bits_of(run[training.program.model.loss()].view())[0]) << "step " << step;
            EXPECT_EQ(training.norm(), bits_of(run[training.experiment.gradient_norm].view())[0]) << "step " << step;
            for (const ValueId id : kept)
                EXPECT_TRUE(bits_of(training.executor.view(id)) == bits_of(run[id].view()))
                    << graph.value(id).name << " after step " << step;
        }
    });
}

TEST_P(ExecutorOf, SameBitsOnAnyNumberOfRanksAndThreads) {
    const Record one = train(GetParam().overrides, 1);
    EXPECT_LT(loss_of(one.losses.back()), 0.99 * loss_of(one.losses.front())); // it learns
    for (const int ranks : {2, 3, 4}) {
        SCOPED_TRACE(fmt::format("{} ranks", ranks));
        expect_same(train(GetParam().overrides, ranks), one);
    }
    SCOPED_TRACE("2 threads");
    expect_same(train(GetParam().overrides, 1, 2), one);
}

TEST_P(ExecutorOf, ReadsNothingThatWasNotWritten) {
    expect_same(train(GetParam().overrides, 1, 1, true), train(GetParam().overrides, 1));
    expect_same(train(GetParam().overrides, 3, 1, true), train(GetParam().overrides, 3));
}

// Whoever holds how many micro-batches: 8 on one rank, 1 on each of 8; and where shares are uneven.
TEST(Executor, AccumulationChangesNothing) {
    const Record eight = train({}, 8);
    expect_same(train({"training.gradient_accumulation_steps=8"}, 1), eight);
    expect_same(train({"training.gradient_accumulation_steps=4"}, 2), eight);
    expect_same(train({}, 5), eight);
    expect_same(train({}, 6), eight);
    expect_same(train({}, 7), eight);
}

TEST(Executor, RanksOfSeveralThreadsChangeNothing) {
    const std::vector<std::string> overrides = variant_named("all").overrides;
    expect_same(train(overrides, 2, 2), train(overrides, 1));
}

TEST(Executor, SeedAndMicroBatchSizeDoChangeSomething) {
    const Record one = train({}, 1);
    EXPECT_NE(train({"training.seed=6"}, 1).losses, one.losses);
    EXPECT_NE(train({"model.dropout=0.1"}, 1).losses, one.losses);
    EXPECT_TRUE(train({"training.local_batch_size=4"}, 1).weights != one.weights);
}

// The library's order of summing: near, and the same on all ranks.
TEST(Executor, NotReproducibleStaysNear) {
    const Record one = train({}, 1);
    for (const int ranks : {1, 2, 3, 4}) {
        const Record fast = train({"run.reproducible=false"}, ranks);
        for (std::size_t step = 0; step < fast.losses.size(); ++step)
            EXPECT_NEAR(loss_of(fast.losses[step]), loss_of(one.losses[step]),
                        tolerance(DType::f32, Kind::reordered).relative * loss_of(one.losses[step]))
                << ranks << " ranks, step " << step;
    }
}

// Rows that only fill a table up: they start at 0 and stay there, and nobody outside sees them.
TEST(Executor, PaddingStaysZero) {
    run_as_threads(1, [](Communicator& communicator) {
        const std::int64_t vocabulary = 4100, width = 16;
        TinyTraining training({fmt::format("data.vocab_size={}", vocabulary), "optimizer.weight_decay=0.5"},
                              communicator);
        const Graph& graph = training.program.model.graph;
        for (int step = 0; step < 3; ++step)
            training.step(step);
        std::int64_t outside = 0;
        for (const std::string name : {"", "optimizer.first_moment/", "optimizer.second_moment/"}) {
            const ValueId table = graph.named(name + "embedding.weight");
            EXPECT_EQ(graph.value(table).type.shape, (Shape{4224, width})) << name;
            EXPECT_EQ(graph.value(table).shape_outside(), (Shape{vocabulary, width})) << name;
            const std::vector<float> values = floats_of(training.executor.view(table));
            const auto padding = values.begin() + vocabulary * width;
            EXPECT_TRUE(std::all_of(padding, values.end(), [](float value) { return value == 0; })) << name;
            EXPECT_TRUE(std::any_of(padding - width, padding, [](float value) { return value != 0; })) << name;
            outside += graph.value(table).shape_outside().count();
        }
        EXPECT_EQ(outside, 3 * vocabulary * width);
        for (const TensorPart& part : parts_to_save(training.program, memory_of(training.executor), 0))
            if (part.name.ends_with("embedding.weight")) {
                EXPECT_EQ(part.whole, (Shape{vocabulary, width})) << part.name;
            }
    });
}

// Training goes on as if there had been no evaluation in the same memory.
TEST(Executor, EvaluationLeavesWhatTrainingNeeds) {
    for (const Variant& variant : variants())
        run_as_threads(1, [&](Communicator& communicator) {
            SCOPED_TRACE(variant.name);
            TinyTraining training(variant.overrides, communicator);
            training.step(0);
            const Program& program = training.experiment.evaluate;
            const Executor evaluation(program.layout, program.plan, training.memory, training.groups, training.stream);
            for (const ValueId id : program.model.graph.of_kind(ValueKind::parameter)) {
                const ValueId same = training.program.model.graph.named(program.model.graph.value(id).name);
                EXPECT_EQ(evaluation.view(id).data, training.executor.view(same).data);
            }
        });
}
