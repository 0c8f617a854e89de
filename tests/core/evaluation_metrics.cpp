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
