// SPDX-License-Identifier: Apache-2.0
// Numbers that follow from counts and sums, against the definitions, case by case.
#include "core/evaluation_metrics.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <random>

using namespace tessera;

TEST(EvaluationMetrics, ScoresOfClassesAreMeansOverThem) {
    // true 0: 3 right, 1 taken for 1; true 1: 2 right, 2 taken for 2; true 2: none there
    const std::vector<double> counts = {3, 1, 0, 0, 2, 2, 0, 0, 0};
    const ClassScores found = class_scores(counts, 3);
    EXPECT_DOUBLE_EQ(found.precision, (3.0 / 3 + 2.0 / 3 + 0) / 3);
    EXPECT_DOUBLE_EQ(found.recall, (3.0 / 4 + 2.0 / 4 + 0) / 3);
    EXPECT_DOUBLE_EQ(found.f1, (2 * 3.0 / 7 + 2 * 2.0 / 7 + 0) / 3);
}

TEST(EvaluationMetrics, ClassesThatNeverComeDoNotCount) {
    const std::vector<double> counts = {5, 0, 0, 0, 4, 0, 0, 0, 0};
    EXPECT_DOUBLE_EQ(class_scores(counts, 3).f1, 1);
}

// Every pair of a positive and a negative, ties half.
TEST(EvaluationMetrics, AreaUnderTheCurveIsTheShareOfPairsInOrder) {
    std::mt19937 generator(1);
    constexpr std::size_t bins = 16;
    std::vector<double> counts(2 * bins);
    std::vector<std::size_t> of_kind[2];
    for (int i = 0; i < 200; ++i) {
        const std::size_t kind = generator() % 2, bin = std::min<std::size_t>(bins - 1, generator() % 12 + 3 * kind);
        counts[kind * bins + bin] += 1;
        of_kind[kind].push_back(bin);
    }
    double in_order = 0;
    for (const std::size_t negative : of_kind[0])
        for (const std::size_t positive : of_kind[1])
            in_order += positive > negative ? 1 : positive == negative ? 0.5 : 0;
    const auto pairs = static_cast<double>(of_kind[0].size() * of_kind[1].size());
    EXPECT_NEAR(area_under_curve(counts), in_order / pairs, 1e-12);
    EXPECT_TRUE(std::isnan(area_under_curve(std::vector<double>{1, 2, 0, 0})));
}

TEST(EvaluationMetrics, CoefficientOfDeterminationIsOneMinusTheShareOfErrors) {
    // targets 1 2 3 and 5 5 5; errors 0.1 0 0.2 and 0 0 0
    const std::vector<double> sums = {6, 15, 14, 75, 0.05, 0};
    EXPECT_NEAR(coefficient_of_determination(sums, 3), (1 - 0.05 / 2 + 1) / 2, 1e-7);
}
