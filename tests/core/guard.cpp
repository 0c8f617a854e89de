// SPDX-License-Identifier: Apache-2.0
// The guard in training: an odd step changes neither weights nor moments, is named, and is not counted by Adam.
#include "kernels/error.hpp"
#include "tests/core/tiny_recurrent.hpp"
#include "tests/core/tiny_training.hpp"

#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

struct Alone {
    const std::unique_ptr<Communicator> alone = make_local_communicator();
};

struct Training : Alone, TinyTraining {
    StepNumbers numbers{experiment, executor};

    explicit Training(const std::vector<std::string>& words, Stream where = CpuStream(1))
        : TinyTraining(words, *alone, std::move(where)) {}
    Training(const Config& config, int rank) : TinyTraining(config, rank, Groups(Mesh({{"data", 1}}), *alone)) {}

    StepRecord record(std::int64_t step_number) {
        step(step_number);
        StepRecord result{.step = step_number + 1};
        numbers.read(result);
        return result;
    }

    // Steps with a weight that is not finite, put back afterwards.
    StepRecord poisoned(std::int64_t step_number, float poison, const std::string& name = "norm.scale") {
        HostCopy copy(executor.stream(), executor.view(program.model.graph.named(name)));
        copy.load();
        float& weight = copy.view().as<float>()[0];
        const float before = std::exchange(weight, poison);
        copy.store();
        const StepRecord result = record(step_number);
        weight = before;
        copy.store();
        return result;
    }

    std::vector<std::uint32_t> without_guard() {
        std::vector<std::uint32_t> all;
        for (const ValueId id : persistent_values(program.model.graph)) {
            if (program.model.graph.value(id).name.starts_with("optimizer.guard_")) continue;
            const std::vector<std::uint32_t> some = bits(id);
            all.insert(all.end(), some.begin(), some.end());
        }
        return all;
    }
};

const std::vector<std::string> skipping{"guard.policy=skip"};

std::vector<Stream> streams() {
    std::vector<Stream> all;
    all.emplace_back(CpuStream(1));
    if (built_with_cuda) all.push_back(gpu_stream(0));
    return all;
}

} // namespace

TEST(Guard, AStepThatIsNotFiniteChangesNothing) {
    for (const std::string optimizer : {"adamw", "sgd"})
        for (Stream& stream : streams()) {
            Training training({"guard.policy=skip", "training.ema_decay=0.9", "optimizer.name=" + optimizer},
                              std::move(stream));
            training.record(0);
            const std::vector<std::uint32_t> before = training.without_guard();
            for (const float odd : {INFINITY, NAN}) {
                const StepRecord record = training.poisoned(1, odd);
                EXPECT_THAT(record.divergence,
                            AllOf(HasSubstr("the loss is not a number, the gradient norm is not a number"),
                                  HasSubstr("its samples are numbers 16 to 31 of the order")));
                EXPECT_TRUE(training.without_guard() == before) << odd;
            }
            EXPECT_EQ(training.numbers.skipped_steps(), 2);
            EXPECT_EQ(training.record(2).divergence, "");
            EXPECT_FALSE(training.without_guard() == before);
        }
}

// Nor do what recurrent layers carry on and the statistics of batch norms, which forward passes make.
TEST(Guard, AStepThatIsNotFiniteLeavesStatesOfTheModelAlone) {
    const auto check = [](const Config& config, const std::string& weight) {
        Training training(config, 0);
        training.record(0);
        const std::vector<std::uint32_t> before = training.without_guard();
        EXPECT_NE(training.poisoned(1, NAN, weight).divergence, "");
        EXPECT_TRUE(training.without_guard() == before) << weight;
        EXPECT_EQ(training.record(2).divergence, "");
        EXPECT_FALSE(training.without_guard() == before);
    };
    check(recurrent_config(skipping), "first.bias_ih_l0");
    check(image_config(tiny_resnet, skipping), "stem_norm.scale");
}

// Where nothing is odd, the guard leaves no trace.
TEST(Guard, ChangesNoGoodStep) {
    Training guarded({"guard.policy=skip", "guard.z_score=6", "guard.window=8"}), plain({});
    for (std::int64_t step = 0; step < 4; ++step) {
        EXPECT_EQ(guarded.record(step).skipped_steps, 0);
        EXPECT_EQ(plain.record(step).skipped_steps, -1);
        EXPECT_TRUE(guarded.without_guard() == plain.without_guard()) << "step " << step;
    }
}

TEST(Guard, ASkippedStepIsNotCounted) {
    Training guarded(skipping), plain({});
    guarded.record(0);
    guarded.poisoned(1, INFINITY);
    plain.record(0);
    for (std::int64_t i = 0; i < plain.experiment.batch.micro_batches; ++i) // its batch comes to nothing
        plain.loader.next(plain.stream, plain.executor.batch());
    EXPECT_EQ(guarded.state_of(2).skipped_steps, 1);
    StepState state = plain.state_of(2);
    state.skipped_steps = 1;
    plain.executor.prepare(state);
    plain.executor.run_micro_batches(state, plain.experiment.batch.micro_batch,
                                     [&] { plain.loader.next(plain.stream, plain.executor.batch()); });
    plain.executor.update(state);
    guarded.record(2);
    EXPECT_TRUE(guarded.without_guard() == plain.without_guard());
}

TEST(Guard, StopsAtAnOutlier) {
    Training training({"training.steps=20", "guard.z_score=20", "guard.window=8"});
    for (std::int64_t step = 0; step < 8; ++step)
        training.record(step);
    EXPECT_THAT([&] { training.poisoned(8, 1e4f); },
                ThrowsMessage<SystemError>(AllOf(HasSubstr("diverged at step 9: the loss "),
                                                 HasSubstr("standard deviations above the mean of the "
                                                           "last 8 good steps"))));
    EXPECT_EQ(training.numbers.skipped_steps(), 1);
}

TEST(Guard, EndsWhereNothingButOddStepsCome) {
    Training training({"training.steps=20", "guard.policy=skip", "guard.max_in_a_row=3"});
    training.poisoned(0, NAN);
    training.poisoned(1, NAN);
    training.record(2);
    training.poisoned(3, NAN);
    training.poisoned(4, NAN);
    EXPECT_THAT(
        [&] { training.poisoned(5, NAN); },
        ThrowsMessage<SystemError>(HasSubstr("diverged at step 6, odd steps in a row: 3 (guard.max_in_a_row)")));
}

TEST(Guard, RefusesValuesThatMakeNone) {
    const auto plan = [](const std::string& word) { plan_tiny({word}, 0, 1); };
    EXPECT_THAT([&] { plan("guard.policy=halt"); }, ThrowsMessage<ConfigError>(HasSubstr("no policy of the guard")));
    EXPECT_THAT([&] { plan("guard.z_score=0.5"); }, ThrowsMessage<ConfigError>(HasSubstr("expected 1 to 1e6")));
    EXPECT_THAT([&] { plan("guard.window=7"); }, ThrowsMessage<ConfigError>(HasSubstr("expected 8 to 65536")));
    EXPECT_THAT([&] { plan("guard.max_in_a_row=0"); }, ThrowsMessage<ConfigError>(HasSubstr("expected 1 to 1000000")));
}
