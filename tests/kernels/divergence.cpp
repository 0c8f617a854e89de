// SPDX-License-Identifier: Apache-2.0
// The judgement of a step: a good one passes and is remembered, an odd one is named, counted and changes nothing else.
#include "kernels/divergence.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <gmock/gmock.h>
#include <limits>

using namespace tessera;

namespace divergence_test {
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity(),
                 no_number = std::numeric_limits<double>::quiet_NaN();

template <class Device> class Divergences : public testing::Test {};
TYPED_TEST_SUITE(Divergences, Devices, DeviceNames);

template <class Device> struct Judge {
    Device on;
    kernels::DivergenceLimits limits;
    Sample losses, norms;
    Sample loss{Shape{}, DType::f32}, norm{Shape{}, DType::f32}, factor{Shape{}, DType::f32};
    Sample good{Shape{}, DType::f32}, skipped{Shape{}, DType::f32}, kept{Shape{}, DType::f32};
    Sample verdict{Shape{kernels::divergence_verdict_count}, DType::f32};

    explicit Judge(std::int64_t window, float z_score, bool scaled = false)
        : limits{z_score, scaled}, losses({window}, DType::f32), norms({window}, DType::f32) {}

    int operator()(double of_loss, double of_norm, double of_factor = 0.5) {
        loss.set(0, of_loss);
        norm.set(0, of_norm);
        factor.set(0, of_factor);
        kernels::judge_step(on.stream(), on(loss), on(norm), on(factor), limits,
                            {on(losses), on(norms), on(good), on(skipped)}, on(kept), on(verdict));
        on.finish();
        return static_cast<int>(verdict[0]);
    }
};

// How far `number` is above the mean of `numbers`, in their standard deviations.
double plain_z_score(const std::vector<double>& numbers, double number) {
    double mean = 0, variance = 0;
    for (const double one : numbers)
        mean += one / static_cast<double>(numbers.size());
    for (const double one : numbers)
        variance += (one - mean) * (one - mean) / static_cast<double>(numbers.size());
    return (number - mean) / std::sqrt(variance);
}

} // namespace

TYPED_TEST(Divergences, AreNumbersThatAreNotFinite) {
    Judge<TypeParam> judge(4, 0);
    EXPECT_EQ(judge(2.5, 0.5), 0);
    EXPECT_EQ(judge.kept[0], 0.5);
    const Sample losses(judge.losses), norms(judge.norms);
    int skipped = 0;
    for (const double odd : {infinity, -infinity, no_number}) {
        EXPECT_EQ(judge(odd, 1), kernels::loss_not_finite);
        EXPECT_EQ(judge.kept[0], 0);
        EXPECT_EQ(judge.skipped[0], ++skipped);
        if (odd != -infinity) {
            EXPECT_EQ(judge(2, odd, 0), kernels::norm_not_finite);
            EXPECT_EQ(judge(odd, odd, no_number), kernels::norm_not_finite + kernels::loss_not_finite);
            EXPECT_EQ(judge.kept[0], 0);
            EXPECT_EQ(judge.skipped[0], skipped += 2);
        }
    }
    EXPECT_TRUE(judge.losses.same_bits(losses) && judge.norms.same_bits(norms)) << "an odd step was remembered";
    EXPECT_EQ(judge.good[0], 1);
}

TYPED_TEST(Divergences, AreOutliersOfTheLastGoodSteps) {
    constexpr std::int64_t window = 300; // more than the threads of a block
    Judge<TypeParam> judge(window, 6);
    std::mt19937 generator(7);
    std::normal_distribution<double> normal;
    std::vector<double> losses, logarithms;
    for (int step = 0; step < window + 150; ++step) {
        const double loss = 100 + 3 * normal(generator), norm = std::exp(0.4 * normal(generator));
        ASSERT_EQ(judge(loss, norm), 0) << "step " << step;
        if (step >= window) {
            EXPECT_NEAR(judge.verdict[1], plain_z_score({losses.end() - window, losses.end()}, loss), 1e-3);
            EXPECT_NEAR(judge.verdict[2], plain_z_score({logarithms.end() - window, logarithms.end()}, std::log(norm)),
                        1e-3);
        }
        losses.push_back(static_cast<float>(loss));
        logarithms.push_back(std::log(norm));
    }
    EXPECT_EQ(judge(100 - 30, std::exp(-4)), 0) << "what falls is no outlier";
    const double good = judge.good[0];
    EXPECT_EQ(judge(100 + 30, 1), kernels::loss_outlier);
    EXPECT_EQ(judge(100, std::exp(4)), kernels::norm_outlier);
    EXPECT_EQ(judge(100 + 30, std::exp(4)), kernels::norm_outlier + kernels::loss_outlier);
    EXPECT_EQ(judge.kept[0], 0);
    EXPECT_EQ(judge.skipped[0], 3);
    EXPECT_EQ(judge.good[0], good);
    judge.limits.z_score = 0;
    EXPECT_EQ(judge(100 + 30, std::exp(4)), 0) << "nobody looks for outliers";
}

TYPED_TEST(Divergences, WantAFullWindowAndKeepOnCounting) {
    Judge<TypeParam> judge(3, 2);
    EXPECT_EQ(judge(1, 1), 0);
    EXPECT_EQ(judge(1, 1), 0);
    EXPECT_EQ(judge(1000, 1000), 0) << "two steps are no window of three";
    EXPECT_EQ(judge(1, 1), 0);
    std::vector<double> counts;
    for (int step = 0; step < 4; ++step) {
        EXPECT_EQ(judge(2, 1), 0);
        counts.push_back(judge.good[0]);
    }
    EXPECT_EQ(counts, (std::vector<double>{5, 3, 4, 5}));
    EXPECT_EQ(judge.losses.values(), (std::vector<double>{2, 2, 2}));
    EXPECT_EQ(judge(2.001, 1), 0) << "on a plateau a thousandth is no outlier";
    EXPECT_EQ(judge(2.1, 1), kernels::loss_outlier);
    EXPECT_EQ(judge(2, 0), 0);
}

TYPED_TEST(Divergences, AreNotWhatALossScaleSkips) {
    Judge<TypeParam> judge(3, 0, true);
    EXPECT_EQ(judge(2, infinity, 0), 0);
    EXPECT_EQ(judge.kept[0], 0);
    EXPECT_EQ(judge.skipped[0], 0);
    EXPECT_EQ(judge.good[0], 0);
    EXPECT_EQ(judge(no_number, 2), kernels::loss_not_finite);
}

TYPED_TEST(Divergences, WrongCountsAreRefused) {
    Judge<TypeParam> judge(3, 0);
    const Sample two(Shape{2}, DType::f32);
    const auto call = [&](const Sample& norms, const Sample& verdict) {
        kernels::judge_step(judge.on.stream(), judge.on(judge.loss), judge.on(judge.norm), judge.on(judge.factor), {},
                            {judge.on(judge.losses), judge.on(norms), judge.on(judge.good), judge.on(judge.skipped)},
                            judge.on(judge.kept), judge.on(verdict));
    };
    EXPECT_THAT([&] { call(two, judge.verdict); }, ThrowsMessage<InternalError>(HasSubstr("the window of norms")));
    EXPECT_THAT([&] { call(judge.norms, two); }, ThrowsMessage<InternalError>(HasSubstr("the verdict")));
}

} // namespace divergence_test
