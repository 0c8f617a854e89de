// SPDX-License-Identifier: Apache-2.0
// The learning rate step by step against the closed formulas, and where they meet their edges.
#include "core/optimizers/schedule.hpp"

#include "core/config_catalog.hpp"
#include "kernels/error.hpp"

#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <numbers>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

constexpr double peak = 0.5;

Schedule schedule_of(const std::string& keys, std::int64_t steps) {
    return Schedule(Config::parse("[lr_scheduler]\n" + keys, "test.toml", {}, known_keys()), peak, steps);
}

} // namespace

TEST(Schedule, WarmUpRisesLinearlyAndReachesThePeakAfterIt) {
    for (const char* type : {"constant", "linear", "cosine", "cosine_restarts", "polynomial", "inverse_sqrt", "step",
                             "exponential", "wsd"}) {
        const Schedule schedule = schedule_of(std::string("type = \"") + type + "\"\nwarmup_steps = 4", 100);
        for (int step = 0; step < 4; ++step)
            EXPECT_DOUBLE_EQ(schedule.rate(step), peak * (step + 1) / 5) << type;
        EXPECT_DOUBLE_EQ(schedule.rate(4), peak) << type;
    }
}

TEST(Schedule, ConstantStaysAndStartsAtOnceWithoutWarmUp) {
    const Schedule schedule = schedule_of("type = \"constant\"\nwarmup_steps = 0\nmin_lr_factor = 0.1", 10);
    for (const int step : {0, 1, 5, 9, 1000})
        EXPECT_EQ(schedule.rate(step), peak);
}

TEST(Schedule, LinearAndCosineFallFromPeakToLowest) {
    const Schedule linear = schedule_of("type = \"linear\"\nwarmup_steps = 10\nmin_lr_factor = 0.2", 50);
    const Schedule cosine = schedule_of("type = \"cosine\"\nwarmup_steps = 10\nmin_lr_factor = 0.2", 50);
    for (int step = 10; step <= 50; ++step) {
        const double passed = (step - 10) / 40.0;
        EXPECT_NEAR(linear.rate(step), peak * (1 - 0.8 * passed), 1e-12) << step;
        EXPECT_NEAR(cosine.rate(step), peak * (0.2 + 0.4 * (1 + std::cos(std::numbers::pi * passed))), 1e-12) << step;
    }
    EXPECT_NEAR(cosine.rate(30), peak * 0.6, 1e-12); // half-way
}

TEST(Schedule, DecayMayEndBeforeTheRunAndThenStaysLowest) {
    for (const char* type : {"linear", "cosine", "wsd"}) {
        const Schedule schedule = schedule_of(
            std::string("type = \"") + type + "\"\nwarmup_steps = 0\ndecay_steps = 20\nmin_lr_factor = 0.25", 100);
        EXPECT_DOUBLE_EQ(schedule.rate(0), peak) << type;
        EXPECT_GT(schedule.rate(19), peak / 4) << type;
        for (const int step : {20, 21, 99, 100000})
            EXPECT_DOUBLE_EQ(schedule.rate(step), peak / 4) << type << " at " << step;
    }
}

TEST(Schedule, WsdIsStableThenFallsLinearly) {
    const Schedule schedule =
        schedule_of("type = \"wsd\"\nwarmup_steps = 5\ndecay_ratio = 0.2\nmin_lr_factor = 0", 100);
    for (int step = 5; step <= 80; ++step)
        EXPECT_DOUBLE_EQ(schedule.rate(step), peak) << step;
    for (int step = 80; step <= 100; ++step)
        EXPECT_NEAR(schedule.rate(step), peak * (100 - step) / 20, 1e-12) << step;
    const Schedule never = schedule_of("type = \"wsd\"\nwarmup_steps = 0\ndecay_ratio = 0\nmin_lr_factor = 0.1", 100);
    EXPECT_DOUBLE_EQ(never.rate(99), peak);
    const Schedule always = schedule_of("type = \"wsd\"\nwarmup_steps = 0\ndecay_ratio = 1\nmin_lr_factor = 0", 100);
    EXPECT_NEAR(always.rate(25), peak * 0.75, 1e-12);
}

TEST(Schedule, PolynomialFallsWithItsPower) {
    const Schedule schedule =
        schedule_of("type = \"polynomial\"\nwarmup_steps = 10\npower = 2.5\nmin_lr_factor = 0.2", 50);
    for (int step = 10; step <= 60; ++step)
        EXPECT_NEAR(schedule.rate(step), peak * (0.2 + 0.8 * std::pow(std::max(50 - step, 0) / 40.0, 2.5)), 1e-12);
}

TEST(Schedule, StepAndExponentialFallByFactors) {
    const Schedule steps = schedule_of("type = \"step\"\nwarmup_steps = 3\nstep_size = 4\ngamma = 0.5", 100);
    const Schedule smooth = schedule_of("type = \"exponential\"\nwarmup_steps = 3\nstep_size = 4\ngamma = 0.5", 100);
    for (int step = 3; step < 40; ++step) {
        double expected = peak;
        for (int passed = 4; passed <= step - 3; passed += 4)
            expected /= 2;
        EXPECT_DOUBLE_EQ(steps.rate(step), expected) << step;
        EXPECT_NEAR(smooth.rate(step + 1) / smooth.rate(step), std::sqrt(std::sqrt(0.5)), 1e-12);
    }
    EXPECT_DOUBLE_EQ(smooth.rate(7), peak / 2);
}

TEST(Schedule, InverseRootHalvesInThreeTimescales) {
    const Schedule schedule = schedule_of("type = \"inverse_sqrt\"\nwarmup_steps = 10", 100);
    for (const auto& [step, part] : {std::pair(10, 1.0), {40, 0.5}, {90, 1 / 3.0}})
        EXPECT_NEAR(schedule.rate(step), peak * part, 1e-12) << step;
    const Schedule slow = schedule_of("type = \"inverse_sqrt\"\nwarmup_steps = 0\ntimescale = 100", 100);
    EXPECT_NEAR(slow.rate(300), peak / 2, 1e-12);
}

TEST(Schedule, CosinesStartAnew) {
    const Schedule schedule = schedule_of(
        "type = \"cosine_restarts\"\nwarmup_steps = 5\nrestart_interval = 10\nrestart_factor = 2\nmin_lr_factor = 0.2",
        100);
    for (const auto& [first, length] : {std::pair(5, 10), {15, 20}, {35, 40}})
        for (int i = 0; i < length; ++i)
            EXPECT_NEAR(schedule.rate(first + i), peak * (0.2 + 0.4 * (1 + std::cos(std::numbers::pi * i / length))),
                        1e-12)
                << first + i;
    const Schedule even = schedule_of("type = \"cosine_restarts\"\nwarmup_steps = 0\nrestart_interval = 7", 100);
    for (int step = 0; step < 50; ++step)
        EXPECT_NEAR(even.rate(step), even.rate(step + 7), 1e-12) << step;
}

TEST(Schedule, OneCycleRisesAndFallsLikeACosine) {
    const Schedule schedule =
        schedule_of("type = \"one_cycle\"\nwarmup_steps = 4\ndecay_steps = 10\nmin_lr_factor = 0.01", 100);
    for (int step = 0; step <= 4; ++step)
        EXPECT_NEAR(schedule.rate(step), 0.02 + 0.48 * (1 - std::cos(std::numbers::pi * step / 4)) / 2, 1e-12) << step;
    for (int step = 4; step <= 12; ++step)
        EXPECT_NEAR(schedule.rate(step),
                    0.005 + 0.495 * (1 + std::cos(std::numbers::pi * std::min(step - 4, 6) / 6)) / 2, 1e-12)
            << step;
}

TEST(Schedule, WarmUpLongerThanTheRunOnlyRises) {
    const Schedule schedule = schedule_of("type = \"cosine\"\nwarmup_steps = 100\nmin_lr_factor = 0.1", 10);
    for (int step = 0; step < 10; ++step)
        EXPECT_DOUBLE_EQ(schedule.rate(step), peak * (step + 1) / 101);
    EXPECT_DOUBLE_EQ(schedule.rate(100), peak / 10); // there is nothing left to decay over
}

TEST(Schedule, RefusesWhatMakesNoSchedule) {
    const auto expect_refused = [](const std::string& keys, const std::string& sentence) {
        EXPECT_THAT([&] { schedule_of(keys, 10); }, ThrowsMessage<ConfigError>(HasSubstr(sentence))) << keys;
    };
    expect_refused("type = \"cosin\"", "no schedule named 'cosin'; did you mean 'cosine'?");
    expect_refused("warmup_steps = -1", "lr_scheduler.warmup_steps = -1: must be at least 0");
    expect_refused("decay_steps = -1", "lr_scheduler.decay_steps = -1: must be at least 0");
    expect_refused("min_lr_factor = -0.1", "must be at least 0");
    expect_refused("type = \"wsd\"\ndecay_ratio = 1.5", "must be in [0, 1]");
    expect_refused("type = \"step\"\ngamma = 0", "lr_scheduler.gamma = 0");
    expect_refused("type = \"exponential\"\nstep_size = 0", "lr_scheduler.step_size = 0: must be at least 1");
    expect_refused("type = \"polynomial\"\npower = 0", "lr_scheduler.power = 0");
    expect_refused("type = \"inverse_sqrt\"\nwarmup_steps = 0", "is wanted where lr_scheduler.warmup_steps is 0");
    expect_refused("type = \"cosine_restarts\"\nrestart_factor = 0.5", "lr_scheduler.restart_factor = 0.5");
    expect_refused("type = \"one_cycle\"\nstart_factor = -1", "lr_scheduler.start_factor = -1");
}
