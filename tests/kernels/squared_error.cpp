// SPDX-License-Identifier: Apache-2.0
// Squared errors and the accuracy against plain loops in double; the same bits on any number of threads.
#include "kernels/squared_error.hpp"

#include "kernels/accuracy.hpp"
#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <gtest/gtest.h>

using namespace tessera;

namespace {

struct Sizes {
    std::int64_t rows, columns;
};
const std::vector<Sizes> sizes = {{1, 1}, {3, 7}, {5, 16}, {2, 100}, {7, 33}, {0, 4}, {300, 10}};
const std::vector<DType> dtypes = {DType::f32, DType::bf16, DType::f16};

template <class Device> class SquaredErrors : public testing::Test {};
TYPED_TEST_SUITE(SquaredErrors, Devices, DeviceNames);
template <class Device> class Accuracy : public testing::Test {};
TYPED_TEST_SUITE(Accuracy, Devices, DeviceNames);

} // namespace

// As a part of samples of twice the columns, too; the gradient in a place of its own and in that of y.
TYPED_TEST(SquaredErrors, AndTheirGradientAreThoseOfAPlainLoop) {
    for (const auto& [rows, columns] : sizes)
        for (const DType dtype : dtypes)
            for (const std::int64_t count : {columns, 2 * columns}) {
                TypeParam on;
                const Sample y(Shape{rows, columns}, dtype, 1), targets(Shape{rows, columns}, DType::f32, 2);
                const Sample scale(Shape{1}, DType::f32, 3), alone(Shape{rows}, DType::f32);
                const Sample losses(Shape{rows}, DType::f32), dy(Shape{rows, columns}, dtype), in_place(y);
                kernels::squared_error(on.stream(), count, on(y), on(targets), on(alone));
                kernels::squared_error_with_gradient(on.stream(), count, on(y), on(targets), on(scale), on(losses),
                                                     on(dy));
                kernels::squared_error_with_gradient(on.stream(), count, on(in_place), on(targets), on(scale),
                                                     on(losses), on(in_place));
                on.finish();
                std::vector<double> expected(static_cast<std::size_t>(rows)), slopes;
                for (std::int64_t i = 0; i < y.count(); ++i) {
                    const double error = y[i] - targets[i];
                    expected[static_cast<std::size_t>(i / columns)] += error * error / static_cast<double>(count);
                    slopes.push_back(scale[0] * 2 * error / static_cast<double>(count));
                }
                EXPECT_TRUE(close_to(losses, expected, tolerance(DType::f32, Kind::norm))) << rows << " " << columns;
                EXPECT_TRUE(close_to(dy, slopes, tolerance(dtype, Kind::function))) << name_of(dtype);
                EXPECT_TRUE(alone.same_bits(losses));
                EXPECT_TRUE(in_place.same_bits(dy));
            }
}

TEST(SquaredErrorsOnThreads, HaveTheSameBits) {
    const Sample y(Shape{400, 333}, DType::f32, 1), targets(Shape{400, 333}, DType::f32, 2);
    const Sample one(Shape{400}, DType::f32), three(Shape{400}, DType::f32);
    CpuStream alone(1), shared(3);
    kernels::squared_error(alone, 333, y.view(), targets.view(), one.view());
    kernels::squared_error(shared, 333, y.view(), targets.view(), three.view());
    EXPECT_TRUE(one.same_bits(three));
}

TEST(SquaredErrorsRefuse, OtherCounts) {
    const Sample y(Shape{4, 3}, DType::f32, 1), targets(Shape{4, 2}, DType::f32, 2), losses(Shape{4}, DType::f32);
    CpuStream stream(1);
    EXPECT_THROW(kernels::squared_error(stream, 3, y.view(), targets.view(), losses.view()), InternalError);
}

// Values are few, so that equal ones are common: the first counts.
TYPED_TEST(Accuracy, IsThatOfAPlainLoop) {
    for (const auto& [rows, columns] : sizes)
        for (const DType dtype : dtypes) {
            TypeParam on;
            Sample logits(Shape{rows, columns}, dtype, 1);
            for (std::int64_t i = 0; i < logits.count(); ++i)
                logits.set(i, std::round(3 * logits[i]));
            Sample targets(Shape{rows}, DType::i32);
            const Sample hits(Shape{rows}, DType::f32);
            std::vector<double> expected;
            for (std::int64_t row = 0; row < rows; ++row) {
                std::int64_t place = 0;
                for (std::int64_t c = 1; c < columns; ++c)
                    if (logits[row * columns + c] > logits[row * columns + place]) place = c;
                targets.set(row, static_cast<double>(row % 3 == 0 ? place : row % 3 == 1 ? columns - 1 : -1));
                expected.push_back(targets[row] == static_cast<double>(place) ? 1 : 0);
            }
            kernels::accuracy(on.stream(), on(logits), on(targets), on(hits));
            on.finish();
            EXPECT_EQ(hits.values(), expected) << rows << " " << columns << " " << name_of(dtype);
        }
}
