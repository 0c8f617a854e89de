// SPDX-License-Identifier: Apache-2.0
// Growing batches: Megatron's rule step by step, no sample lost or doubled at a stage's edge, and what is refused.
#include "core/run/batch_ramp.hpp"
#include "core/data/loader.hpp"
#include "core/run/experiment.hpp"
#include "tests/core/data_files.hpp"
#include "tests/core/tiny_gpt.hpp"

#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

using namespace tessera;

// Megatron-LM's RampupBatchsizeNumMicroBatches, asked again in each step.
RC_GTEST_PROP(BatchRamp, IsMegatronsRule, ()) {
    const auto start = *rc::gen::inRange<std::int64_t>(1, 20), increment = *rc::gen::inRange<std::int64_t>(1, 20);
    const auto parts = *rc::gen::inRange<std::int64_t>(1, 12), samples = *rc::gen::inRange<std::int64_t>(1, 3000);
    const std::int64_t global = start + parts * increment;
    const BatchRamp ramp(start, increment, samples, global);
    std::int64_t consumed = 0;
    for (std::int64_t step = 0; step < 400; ++step) {
        // floor(consumed / (samples / parts)), in whole numbers
        const std::int64_t steps_up = consumed >= samples ? parts : consumed * parts / samples;
        RC_ASSERT(ramp.stage_of(step).batch == start + steps_up * increment);
        RC_ASSERT(ramp.samples_before(step) == consumed);
        consumed += ramp.stage_of(step).batch;
    }
    std::int64_t next = 0;
    for (const BatchStage& stage : ramp.stages()) {
        RC_ASSERT(stage.first_step == next && stage.end_step > next);
        next = stage.end_step;
    }
}

TEST(BatchRamp, WithoutOneAllStepsAreAlike) {
    const BatchRamp one(12);
    EXPECT_FALSE(one.grows());
    EXPECT_EQ(one.samples_before(1000), 12000);
    EXPECT_EQ(one.stage_of(7).batch, 12);
    EXPECT_EQ(BatchRamp(4, 4, 48, 12).text(), "4 samples in steps 1 to 6, 8 to step 9, then 12");
}

TEST(BatchRamp, StagesArePlannedWithTheirOwnBatch) {
    const std::vector<std::string> words = {"training.batch_size_ramp=[4, 6, 40]"}; // to 16 by micro-batches of 2
    const Config config = tiny_config(words);
    const auto dataset = tiny_dataset(config);
    std::int64_t samples = 0;
    for (const auto& [step, batch] : {std::pair(0, 4), {4, 4}, {5, 10}, {6, 10}, {7, 16}, {90, 16}}) {
        const Experiment experiment = plan_training(config, {0, 2, true}, dataset.get(), CpuStream(1), step);
        EXPECT_EQ(experiment.batch.global, batch) << step;
        EXPECT_EQ(experiment.batch.micro_batches, batch / 2);
        EXPECT_EQ(experiment.sizes.units_per_step, batch * 12);
        EXPECT_EQ(experiment.train_loader(step).first_sample, experiment.ramp.samples_before(step));
        samples = std::max(samples, experiment.ramp.samples_before(step));
    }
    EXPECT_EQ(samples, 5 * 4 + 2 * 10 + 83 * 16);
    EXPECT_EQ(plan_training(config, {0, 2, true}, dataset.get(), CpuStream(1)).batch.global, 16);
}

TEST(BatchRamp, RefusesWhatDoesNotFit) {
    const auto refusal = [](const std::string& ramp, const std::string& why, const std::string& more = "run.name=x") {
        const Config config = tiny_config({"training.batch_size_ramp=" + ramp, more});
        expect_refusal([&] { batch_ramp(config, solve_batch(config, 1)); },
                       "command line: training.batch_size_ramp = " + ramp + ": " + why);
    };
    refusal("[4, 4]", "expected three numbers: [start, increment, samples]");
    refusal("[0, 4, 40]", "start, increment and samples must be at least 1, and samples no more than there can be");
    refusal("[4, 4, 9223372036854775807]",
            "start, increment and samples must be at least 1, and samples no more than there can be");
    refusal("[4, 5, 40]", "from 4 on, increments of 5 never come to training.global_batch_size = 16");
    refusal("[20, 4, 40]", "from 20 on, increments of 4 never come to training.global_batch_size = 16");
    refusal("[1, 3, 40]", "start and increment must be multiples of training.local_batch_size = 2");
    refusal("[4, 4, 40]",
            "the number of micro-batches grows with the batch: say training.local_batch_size, and not "
            "training.gradient_accumulation_steps",
            "training.gradient_accumulation_steps=8");
}
