// SPDX-License-Identifier: Apache-2.0
// Training in f16: a step whose gradients overflow changes nothing but the scale, and is not counted by Adam; on a CPU
// and on a GPU.
#include "core/run/step_numbers.hpp"
#include "kernels/error.hpp"
#include "tests/core/tiny_training.hpp"

#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

std::vector<Stream> streams() {
    std::vector<Stream> all;
    all.emplace_back(CpuStream(1));
    if (built_with_cuda) all.push_back(gpu_stream(0));
    return all;
}

struct Alone {
    const std::unique_ptr<Communicator> alone = make_local_communicator();
};

// The tiny GPT in f16 at a scale. 2^24 overflows in the first gradient of the logits: 2^24 / 192 tokens is above 65504.
struct Training : Alone, TinyTraining {
    StepNumbers numbers{experiment, executor};

    Training(Stream where, const std::string& scale, const std::vector<std::string>& words = {})
        : TinyTraining(with(scale, words), *alone, std::move(where)) {}

    StepRecord record(std::int64_t step_number) {
        step(step_number);
        StepRecord result{.step = step_number + 1};
        numbers.read(result);
        return result;
    }

private:
    static std::vector<std::string> with(const std::string& scale, std::vector<std::string> words) {
        words.insert(words.end(), {"training.dtype=f16", "training.loss_scale=" + scale});
        return words;
    }
};

std::vector<std::uint32_t> without_scale(Training& training) { // the three scalars are the first states
    std::vector<std::uint32_t> all = training.weights();
    const auto weights = static_cast<std::ptrdiff_t>(parameter_count(training.program.model.graph));
    all.erase(all.begin() + weights, all.begin() + weights + 3);
    return all;
}

} // namespace

TEST(LossScaleInTraining, AnOverflowChangesTheScaleAndNothingElse) {
    for (Stream& stream : streams()) {
        Training training(std::move(stream), "16777216", {"training.ema_decay=0.9"});
        const std::vector<std::uint32_t> before = without_scale(training);
        double scale = 16777216;
        std::int64_t step = 0;
        for (; step < 5; ++step, scale /= 2) {
            const StepRecord record = training.record(step);
            EXPECT_EQ(record.loss_scale, scale);
            if (std::isfinite(record.grad_norm)) break;
            EXPECT_EQ(record.skipped_steps, step + 1);
            EXPECT_TRUE(without_scale(training) == before);
        }
        EXPECT_GE(step, 1) << "nothing overflowed";
        EXPECT_LT(step, 5) << "the scale does not help";
        EXPECT_FALSE(without_scale(training) == before);
        const StepRecord next = training.record(step + 1);
        EXPECT_EQ(next.loss_scale, scale);
        EXPECT_EQ(next.skipped_steps, step);
    }
}

// After a skipped step all is as if training had begun one step later, with half the scale.
TEST(LossScaleInTraining, ASkippedStepIsNotCounted) {
    const std::vector<std::string> plain = {"optimizer.name=sgd"}; // whose steps are not counted
    for (const std::vector<std::string>& words :
         {plain, {"optimizer.name=adamw"}, {"optimizer.name=sgd", "training.ema_decay=0.9"}}) {
        Training skipping(CpuStream(1), "16777216", words), later(CpuStream(1), "8388608", words);
        for (std::int64_t i = 0; i < later.experiment.batch.micro_batches; ++i)
            later.loader.next(later.stream, later.executor.batch());
        const auto skip = [&](float count) {
            *later.executor.view(later.program.model.loss_scale->skipped_steps).as<float>() = count;
        };
        skip(1);
        ASSERT_EQ(skipping.record(0).skipped_steps, 1);
        for (std::int64_t step = 1; step < 4; ++step) {
            skipping.record(step);
            later.record(step);
            EXPECT_TRUE(skipping.weights() == later.weights()) << words.back() << ", step " << step;
        }
        skip(0); // and it is this count that does it
        skipping.record(4);
        later.record(4);
        EXPECT_EQ(without_scale(skipping) == without_scale(later), words == plain);
    }
}

TEST(LossScaleInTraining, GrowsByItsKeys) {
    Training training(CpuStream(1), "4", {"training.loss_scale_growth=8", "training.loss_scale_interval=2"});
    std::vector<double> scales;
    for (int step = 0; step < 5; ++step)
        scales.push_back(training.record(step).loss_scale);
    EXPECT_EQ(scales, (std::vector<double>{4, 4, 32, 32, 256}));
}

TEST(LossScaleInTraining, EndsWhenNoScaleHelps) {
    Training training(CpuStream(1), "2");
    const View scale = training.executor.view(training.program.model.graph.named("norm.scale"));
    scale.as<float>()[0] = INFINITY;
    EXPECT_EQ(training.record(0).skipped_steps, 1); // at 2, then 1 is left
    EXPECT_THAT([&] { training.record(1); },
                ThrowsMessage<SystemError>(HasSubstr("diverged at step 2: in f16 the gradients are not finite at any "
                                                     "loss scale down to 1 (skipped steps: 2)")));
}

TEST(LossScaleInTraining, WantsPowersOfTwo) {
    const auto plan = [](const std::string& word) { plan_tiny({"training.dtype=f16", word}, 0, 1); };
    for (const std::string word : {"training.loss_scale=1000", "training.loss_scale=0.5", "training.loss_scale=1e9",
                                   "training.loss_scale_growth=3", "training.loss_scale_backoff=0.7"})
        EXPECT_THAT([&] { plan(word); }, ThrowsMessage<ConfigError>(HasSubstr("expected a power of two from ")))
            << word;
    EXPECT_THAT([&] { plan("training.loss_scale_interval=0"); },
                ThrowsMessage<ConfigError>(HasSubstr("expected 1 to 16777216")));
}
