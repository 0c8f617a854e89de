// SPDX-License-Identifier: Apache-2.0
// Numbers that follow from counts and sums, against the definitions, case by case.
#include "core/evaluation_metrics.hpp"

#include "core/run/bits_per_byte.hpp"
#include "parallel/communication/local.hpp"
#include "tests/core/data_files.hpp"

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

namespace {

// Every pair of a positive and a negative, ties half.
double share_of_pairs(const std::vector<Scored>& scores) {
    double in_order = 0, pairs = 0;
    for (const Scored& high : scores)
        for (const Scored& low : scores)
            if (high.positive && !low.positive) {
                ++pairs;
                in_order += high.score > low.score ? 1 : high.score == low.score ? 0.5 : 0;
            }
    return in_order / pairs;
}

} // namespace

// Scores nearer to each other than 1/256, and many equal ones.
TEST(EvaluationMetrics, AreaUnderTheCurveIsTheShareOfPairsInOrder) {
    std::mt19937 generator(1);
    for (const double step : {1.0, 1e-3, 1e-7}) {
        std::vector<Scored> scores;
        for (int i = 0; i < 300; ++i) {
            const bool positive = generator() % 3 == 0;
            scores.push_back({step * static_cast<double>(generator() % 40 + (positive ? 9 : 0)), positive});
        }
        const double wanted = share_of_pairs(scores);
        EXPECT_GT(wanted, 0.6);
        EXPECT_NEAR(area_under_curve(scores), wanted, 1e-12);
    }
    std::vector<Scored> alone{{1, true}, {2, true}}, unknown{{1, true}, {NAN, false}};
    EXPECT_TRUE(std::isnan(area_under_curve(alone)));
    EXPECT_TRUE(std::isnan(area_under_curve(unknown)));
}

// Each class against the rest, by its probability; a class that never comes is in no mean, a row without a target in
// none.
TEST(EvaluationMetrics, AreaOfClassesIsTheMeanOverThem) {
    std::mt19937 generator(2);
    constexpr std::size_t classes = 4;
    std::vector<double> rows;
    std::vector<std::vector<Scored>> of(classes);
    for (int i = 0; i < 120; ++i) {
        const int target = static_cast<int>(generator() % 4) - 1; // -1: none; class 3 never comes
        double sum = 0;
        std::vector<double> logits;
        for (std::size_t c = 0; c < classes; ++c) {
            logits.push_back(static_cast<double>(generator() % 1000) / 300 + (static_cast<int>(c) == target ? 0.8 : 0));
            sum += std::exp(logits[c]);
        }
        rows.insert(rows.end(), logits.begin(), logits.end());
        rows.push_back(target + 1);
        for (std::size_t c = 0; c < classes && target >= 0; ++c)
            of[c].push_back({std::exp(logits[c]) / sum, static_cast<int>(c) == target});
    }
    EXPECT_NEAR(area_of_classes(rows, 4), (share_of_pairs(of[0]) + share_of_pairs(of[1]) + share_of_pairs(of[2])) / 3,
                1e-12);
    const std::vector<double> two = {1, 4, 2, 0, 3, 1, 0, 1, 2, 3, 1, 1}; // differences 3, 3, 1, -2: of 1 0 1 0
    EXPECT_DOUBLE_EQ(area_of_classes(two, 2), (0.5 + 1 + 0 + 1) / 4);
}

TEST(EvaluationMetrics, ScoresOfOutcomesAreMeansOverThem) {
    // two outcomes: (right none, wrongly there, missed, hit) = (4, 1, 2, 3) and (9, 0, 1, 0)
    const std::vector<double> counts = {4, 9, 1, 0, 2, 1, 3, 0};
    const OutcomeScores found = outcome_scores(counts);
    EXPECT_DOUBLE_EQ(found.accuracy, (7.0 + 9.0) / 20);
    EXPECT_DOUBLE_EQ(found.precision, (3.0 / 4 + 0) / 2);
    EXPECT_DOUBLE_EQ(found.recall, (3.0 / 5 + 0) / 2);
    EXPECT_DOUBLE_EQ(found.f1, (2 * 3.0 / (2 * 3 + 1 + 2) + 0) / 2);
    // logits of two outcomes, then what was there
    const std::vector<double> rows = {1, 5, 1, 0, 2, 4, 0, 1, 1, 3, 0, 0, 0, 2, 0, 1};
    EXPECT_DOUBLE_EQ(area_of_outcomes(rows, 2), ((0 + 0.5 + 1) / 3 + 1 / 4.0) / 2);
}

TEST(EvaluationMetrics, CoefficientOfDeterminationIsOneMinusTheShareOfErrors) {
    // targets 1 2 3 and 5 5 5; errors 0.1 0 0.2 and 0 0 0
    const std::vector<double> sums = {6, 15, 14, 75, 0.05, 0};
    EXPECT_NEAR(coefficient_of_determination(sums, 3), (1 - 0.05 / 2 + 1) / 2, 1e-7);
}

// More text than a rank decodes at once, of characters of one to three bytes: the parts of 1, 2 and 3 ranks add up.
TEST(EvaluationMetrics, TheBytesOfATextAreThoseOfAllRanks) {
    std::string text;
    for (int i = 0; i < 600'000; ++i)
        text += std::array{"a", "\u00e9", "\u20ac"}[static_cast<std::size_t>(i) * i % 7 % 3];
    const TestFolder folder;
    DatasetOptions options;
    options.reader = "text";
    options.files = {folder.write("train.txt", "a\u00e9\u20aca\u00e9\u20aca")};
    options.validation_files = {folder.write("text.txt", text)};
    options.tokenizer.kind = "character";
    options.sequence_length = 5;
    const std::unique_ptr<Dataset> dataset = open_dataset(options);
    const std::int64_t windows = (600'000 - 1) / 5;
    const SampleOrder order({"sequential", 1, dataset->samples(Split::validation), 5});
    std::int64_t wanted = 0, characters = -1; // the first is no target
    for (const char byte : text) {
        if ((byte & 0xC0) != 0x80) ++characters;
        if (characters > 0 && characters <= windows * 5) ++wanted;
    }
    for (const int ranks : {1, 2, 3})
        run_as_threads(ranks, [&](Communicator& all) {
            Stream host = CpuStream();
            EXPECT_EQ(text_bytes(*dataset, order, windows, all, host), wanted) << ranks;
        });
    EXPECT_DOUBLE_EQ(bits_per_byte(std::log(2.0), windows * 5, wanted),
                     static_cast<double>(windows * 5) / static_cast<double>(wanted));
}
