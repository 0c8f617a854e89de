// SPDX-License-Identifier: Apache-2.0
// Adafactor's kernels against plain loops in double, with padded rows.
#include "kernels/adafactor.hpp"
#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>

using namespace tessera;

namespace adafactor_test {

namespace {

template <class Device> class Adafactor : public testing::Test {};
TYPED_TEST_SUITE(Adafactor, Devices, DeviceNames);

constexpr kernels::AdafactorMatrix matrices[] = {{1, 1, 1}, {7, 7, 1}, {5, 3, 40}, {130, 130, 300}};

Sample scalars(const std::vector<double>& values) {
    Sample made(Shape{static_cast<std::int64_t>(values.size())}, DType::f32);
    for (std::size_t i = 0; i < values.size(); ++i)
        made.set(static_cast<std::int64_t>(i), values[i]);
    return made;
}

} // namespace

TYPED_TEST(Adafactor, SquaresAndDirectionsAreThoseOfPlainLoops) {
    for (const auto& of : matrices) {
        TypeParam on;
        const Sample gradient(Shape{of.rows, of.columns}, DType::f32, 1),
            direction(Shape{of.rows, of.columns}, DType::f32);
        const Sample rows(Shape{of.rows}, DType::f32, 2, 0.5, 2), columns(Shape{of.columns}, DType::f32, 3, 0.5, 2);
        const Sample mean(Shape{}, DType::f32), pace = scalars({0.1, 0.3}), factor = scalars({0.7});
        std::vector<double> of_rows = rows.values(), of_columns = columns.values(), directions;
        const auto square = [&](std::int64_t r, std::int64_t c) {
            return std::pow(0.7 * gradient[r * of.columns + c], 2) + 1e-30;
        };
        double whole = 0;
        for (std::int64_t r = 0; r < of.counted; ++r) {
            double sum = 0;
            for (std::int64_t c = 0; c < of.columns; ++c)
                sum += square(r, c) / static_cast<double>(of.columns);
            double& kept = of_rows[static_cast<std::size_t>(r)];
            whole += (kept += 0.3 * (sum - kept)) / static_cast<double>(of.counted);
        }
        for (std::int64_t c = 0; c < of.columns; ++c) {
            double sum = 0;
            for (std::int64_t r = 0; r < of.counted; ++r)
                sum += square(r, c) / static_cast<double>(of.counted);
            of_columns[static_cast<std::size_t>(c)] += 0.3 * (sum - of_columns[static_cast<std::size_t>(c)]);
        }
        for (std::int64_t i = 0; i < of.rows * of.columns; ++i) {
            const auto r = static_cast<std::size_t>(i / of.columns), c = static_cast<std::size_t>(i % of.columns);
            directions.push_back(
                i / of.columns < of.counted ? 0.7 * gradient[i] / std::sqrt(of_rows[r] / whole * of_columns[c]) : 0);
        }
        const kernels::AdafactorSquares squares{on(rows), on(columns), on(mean)};
        kernels::adafactor_squares(on.stream(), of, on(pace), on(factor), on(gradient), squares);
        kernels::adafactor_direction(on.stream(), of, on(factor), on(gradient), squares, on(direction));
        on.finish();
        EXPECT_TRUE(close_to(rows, of_rows, tolerance(DType::f32, Kind::norm))) << of.rows;
        EXPECT_TRUE(close_to(columns, of_columns, tolerance(DType::f32, Kind::norm))) << of.rows;
        EXPECT_TRUE(close_to(direction, directions, tolerance(DType::f32, Kind::norm))) << of.rows;
    }
}

TYPED_TEST(Adafactor, StepsHaveTheSizeOfTheWeights) {
    for (const double weight_squares : {40.0, 1e-9})           // below 1e-3 the size is that
        for (const double direction_squares : {30.0, 900.0}) { // of 100: below and above the threshold
            TypeParam on;
            const Sample direction(Shape{70}, DType::f32, 1), weight(Shape{70}, DType::f32, 2);
            const Sample pace = scalars({0.1, 0.3}), factor = scalars({0.7});
            const Sample of_weights = scalars({weight_squares}), of_directions = scalars({direction_squares});
            std::vector<double> expected = weight.values();
            const double size = std::max(1e-3, std::sqrt(weight_squares / 100));
            const double along = size / std::max(1.0, std::sqrt(direction_squares / 100) / 1.5);
            for (std::size_t i = 0; i < expected.size(); ++i)
                expected[i] -= 0.1 * (along * direction[static_cast<std::int64_t>(i)] + 0.2 * expected[i]);
            kernels::adafactor_step(on.stream(), {.elements = 100, .threshold = 1.5f, .weight_decay = 0.2f}, on(pace),
                                    on(factor), on(of_weights), on(of_directions), on(direction), on(weight));
            on.finish();
            EXPECT_TRUE(close_to(weight, expected, tolerance(DType::f32, Kind::update)));
        }
}

TYPED_TEST(Adafactor, NothingChangesInASkippedStep) {
    TypeParam on;
    const Sample gradient(Shape{3, 4}, DType::f32, 1), direction(Shape{3, 4}, DType::f32, 2),
        weight(Shape{3, 4}, DType::f32, 3);
    const Sample rows(Shape{3}, DType::f32), columns(Shape{4}, DType::f32), mean(Shape{}, DType::f32);
    const Sample pace = scalars({0.1, 1}), factor = scalars({0}), one = scalars({1});
    const std::vector<double> weights = weight.values();
    const kernels::AdafactorSquares squares{on(rows), on(columns), on(mean)};
    kernels::adafactor_squares(on.stream(), {3, 3, 4}, on(pace), on(factor), on(gradient), squares);
    kernels::adafactor_direction(on.stream(), {3, 3, 4}, on(factor), on(gradient), squares, on(direction));
    kernels::adafactor_step(on.stream(), {.elements = 12}, on(pace), on(factor), on(one), on(one), on(direction),
                            on(weight));
    on.finish();
    EXPECT_EQ(weight.values(), weights);
    EXPECT_EQ(rows.values(), std::vector<double>(3));
    EXPECT_EQ(columns.values(), std::vector<double>(4));
    EXPECT_EQ(direction.values(), std::vector<double>(12));
    EXPECT_THROW(kernels::adafactor_direction(on.stream(), {3, 3, 5}, on(factor), on(gradient), squares, on(direction)),
                 InternalError);
}

} // namespace adafactor_test
