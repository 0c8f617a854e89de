// SPDX-License-Identifier: Apache-2.0
// Counts of classes, hits and scores against plain loops. Values are few, so that equal ones are common.
#include "kernels/classification.hpp"
#include "kernels/regression.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <gtest/gtest.h>

using namespace tessera;

namespace classification_test {

namespace {

template <class Device> class Classification : public testing::Test {};
TYPED_TEST_SUITE(Classification, Devices, DeviceNames);

struct Sizes {
    std::int64_t rows, classes, columns;
};

Sample some_logits(const Sizes& of, DType dtype) {
    Sample logits(Shape{of.rows, of.columns}, dtype, 1);
    for (std::int64_t i = 0; i < logits.count(); ++i)
        logits.set(i, std::round(3 * logits[i]));
    return logits;
}

Sample some_targets(std::int64_t rows, std::int64_t classes) {
    Sample targets(Shape{rows}, DType::i32);
    for (std::int64_t n = 0; n < rows; ++n)
        targets.set(n, n % 5 == 3 ? -1 : static_cast<double>(n * 7 % classes));
    return targets;
}

} // namespace

TYPED_TEST(Classification, CountsAreThoseOfAPlainLoop) {
    for (const Sizes& of : {Sizes{1, 1, 1}, {50, 7, 7}, {9, 33, 40}, {300, 3, 4}, {0, 4, 4}})
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
            TypeParam on;
            const Sample logits = some_logits(of, dtype), targets = some_targets(of.rows, of.classes);
            const Sample predicted(Shape{of.rows}, DType::i32), counts(Shape{of.classes, of.classes}, DType::f32);
            const Sample hits(Shape{of.rows}, DType::f32);
            const std::int64_t k = std::min<std::int64_t>(3, of.classes);
            kernels::confusion(on.stream(), of.classes, on(logits), on(targets), on(predicted), on(counts));
            kernels::top_k_hits(on.stream(), of.classes, k, on(logits), on(targets), on(hits));
            on.finish();
            std::vector<double> expected(static_cast<std::size_t>(counts.count())), wanted;
            for (std::int64_t n = 0; n < of.rows; ++n) {
                const auto target = static_cast<std::int64_t>(targets[n]);
                std::int64_t place = 0, before = 0;
                for (std::int64_t c = 0; c < of.classes; ++c) {
                    const double logit = logits[n * of.columns + c];
                    if (logit > logits[n * of.columns + place]) place = c;
                    if (target < 0) continue;
                    const double own = logits[n * of.columns + target];
                    before += logit > own || (logit == own && c < target) ? 1 : 0;
                }
                if (target >= 0) expected[static_cast<std::size_t>(target * of.classes + place)] += 1;
                wanted.push_back(target >= 0 && before < k ? 1 : 0);
            }
            EXPECT_EQ(counts.values(), expected) << of.classes;
            EXPECT_EQ(hits.values(), wanted) << of.classes;
        }
}

TYPED_TEST(Classification, ScoresAreInThePlacesOfTheirRows) {
    constexpr std::int64_t rows = 50, columns = 7, classes = 5, first = 9, all = 80;
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        TypeParam on;
        const Sample logits = some_logits({rows, classes, columns}, dtype);
        Sample labels = some_targets(rows, classes);
        labels.set(3, -100); // no classes
        labels.set(7, classes);
        const Sample numbers(Shape{rows, classes}, DType::f32, 3);
        Sample begin(Shape{}, DType::i32);
        begin.set(0, first);
        const Sample of_labels(Shape{all, classes + 1}, DType::f32, 4),
            of_numbers(Shape{all, 2 * classes}, DType::f32, 5);
        kernels::place_scores(on.stream(), classes, on(logits), on(labels), on(begin), on(of_labels));
        kernels::place_scores(on.stream(), classes, on(logits), on(numbers), on(begin), on(of_numbers));
        on.finish();
        std::vector<double> wanted, wanted_numbers;
        for (std::int64_t r = -first; r < all - first; ++r) {
            const bool there = r >= 0 && r < rows;
            for (std::int64_t c = 0; c < classes; ++c)
                wanted.push_back(there ? logits[r * columns + c] : 0);
            wanted.push_back(there && labels[r] >= 0 && labels[r] < classes ? labels[r] + 1 : 0);
            for (std::int64_t c = 0; c < 2 * classes; ++c)
                wanted_numbers.push_back(!there        ? 0
                                         : c < classes ? logits[r * columns + c]
                                                       : numbers[r * classes + c - classes]);
        }
        EXPECT_EQ(of_labels.values(), wanted);
        EXPECT_EQ(of_numbers.values(), wanted_numbers);
    }
}

TYPED_TEST(Classification, OutcomesAreCountedByWhatIsThereAndTaken) {
    for (const auto& [rows, outcomes] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {70, 3}, {40, 150}, {0, 2}})
        for (const DType dtype : {DType::f32, DType::bf16}) {
            TypeParam on;
            const Sample logits = some_logits({rows, outcomes, outcomes}, dtype),
                         counts(Shape{4, outcomes}, DType::f32);
            Sample targets(Shape{rows, outcomes}, DType::f32, 6);
            for (std::int64_t i = 0; i < targets.count(); ++i)
                targets.set(i, targets[i] > 0.3 ? 1 : 0);
            kernels::binary_counts(on.stream(), on(logits), on(targets), on(counts));
            on.finish();
            std::vector<double> expected(static_cast<std::size_t>(counts.count()));
            for (std::int64_t i = 0; i < rows * outcomes; ++i)
                expected[static_cast<std::size_t>(
                    (2 * (targets[i] > 0.5 ? 1 : 0) + (logits[i] > 0 ? 1 : 0)) * outcomes + i % outcomes)] += 1;
            EXPECT_EQ(counts.values(), expected);
        }
}

TYPED_TEST(Classification, SumsOfNumbersAreThoseOfAPlainLoop) {
    for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {50, 7}, {33, 200}, {0, 3}}) {
        TypeParam on;
        const Sample y(Shape{rows, columns}, DType::f32, 1), targets(Shape{rows, columns}, DType::f32, 2);
        const Sample centres(Shape{columns}, DType::f32, 3), sums(Shape{3, columns}, DType::f32);
        kernels::regression_sums(on.stream(), on(y), on(targets), on(centres), on(sums));
        on.finish();
        std::vector<double> expected(static_cast<std::size_t>(3 * columns));
        for (std::int64_t i = 0; i < rows * columns; ++i) {
            const auto k = static_cast<std::size_t>(i % columns), size = static_cast<std::size_t>(columns);
            const double distance = targets[i] - centres[i % columns];
            expected[k] += distance;
            expected[size + k] += distance * distance;
            expected[2 * size + k] += (y[i] - targets[i]) * (y[i] - targets[i]);
        }
        EXPECT_TRUE(close_to(sums, expected, tolerance(DType::f32, Kind::norm))) << rows << " " << columns;
    }
}

} // namespace classification_test
