// SPDX-License-Identifier: Apache-2.0
// Pointwise losses and the accuracy against plain loops in double; the same bits on any number of threads.
#include "kernels/pointwise_loss.hpp"

#include "kernels/accuracy.hpp"
#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <gtest/gtest.h>

using namespace tessera;

namespace pointwise_loss_test {

namespace {

struct Sizes {
    std::int64_t rows, columns;
};
const std::vector<Sizes> sizes = {{1, 1}, {3, 7}, {5, 16}, {2, 100}, {7, 33}, {0, 4}, {300, 10}};
const std::vector<DType> dtypes = {DType::f32, DType::bf16, DType::f16};

using kernels::PointwiseLoss;
using LossKind = PointwiseLoss::Kind;
const std::vector<PointwiseLoss> losses_tried = {{LossKind::squared},
                                                 {LossKind::absolute},
                                                 {LossKind::huber, 0.7f},
                                                 {LossKind::binary},
                                                 {LossKind::binary, 1, 2.5f}};

// The value and the slope.
std::pair<double, double> plain(const PointwiseLoss& loss, double y, double t) {
    const double error = y - t, size = std::abs(error), delta = loss.delta;
    switch (loss.kind) {
    case LossKind::squared:
        return {error * error, 2 * error};
    case LossKind::absolute:
        return {size, error > 0 ? 1 : error < 0 ? -1 : 0};
    case LossKind::huber:
        if (size <= delta) return {error * error / 2, error};
        return {delta * (size - delta / 2), error > 0 ? delta : -delta};
    case LossKind::binary:
        break;
    }
    const double weight = 1 + (loss.positive_weight - 1) * t;
    return {(1 - t) * y + weight * std::log1p(std::exp(-y)), (1 - t) - weight / (1 + std::exp(y))};
}

template <class Device> class PointwiseLosses : public testing::Test {};
TYPED_TEST_SUITE(PointwiseLosses, Devices, DeviceNames);
template <class Device> class Accuracy : public testing::Test {};
TYPED_TEST_SUITE(Accuracy, Devices, DeviceNames);

} // namespace

// As a part of samples of twice the columns, too; the gradient in a place of its own and in that of y.
TYPED_TEST(PointwiseLosses, AndTheirGradientAreThoseOfAPlainLoop) {
    for (const auto& [rows, columns] : sizes)
        for (const DType dtype : dtypes)
            for (const PointwiseLoss& loss : losses_tried)
                for (const std::int64_t count : {columns, 2 * columns}) {
                    TypeParam on;
                    const Sample y(Shape{rows, columns}, dtype, 1, -6, 6), scale(Shape{1}, DType::f32, 3);
                    const Sample targets(Shape{rows, columns}, DType::f32, 2, 0, 1), alone(Shape{rows}, DType::f32);
                    const Sample losses(Shape{rows}, DType::f32), dy(Shape{rows, columns}, dtype), in_place(y);
                    kernels::pointwise_loss(on.stream(), loss, count, on(y), on(targets), on(alone));
                    kernels::pointwise_loss_with_gradient(on.stream(), loss, count, on(y), on(targets), on(scale),
                                                          on(losses), on(dy));
                    kernels::pointwise_loss_with_gradient(on.stream(), loss, count, on(in_place), on(targets),
                                                          on(scale), on(losses), on(in_place));
                    on.finish();
                    std::vector<double> expected(static_cast<std::size_t>(rows)), slopes;
                    for (std::int64_t i = 0; i < y.count(); ++i) {
                        const auto [value, slope] = plain(loss, y[i], targets[i]);
                        expected[static_cast<std::size_t>(i / columns)] += value / static_cast<double>(count);
                        slopes.push_back(scale[0] * slope / static_cast<double>(count));
                    }
                    EXPECT_TRUE(close_to(losses, expected, tolerance(DType::f32, Kind::norm)))
                        << rows << " " << columns;
                    EXPECT_TRUE(close_to(dy, slopes, tolerance(dtype, Kind::norm))) << name_of(dtype);
                    EXPECT_TRUE(alone.same_bits(losses));
                    EXPECT_TRUE(in_place.same_bits(dy));
                }
}

TEST(PointwiseLossesOnThreads, HaveTheSameBits) {
    const Sample y(Shape{400, 333}, DType::f32, 1), targets(Shape{400, 333}, DType::f32, 2);
    for (const PointwiseLoss& loss : losses_tried) {
        const Sample one(Shape{400}, DType::f32), three(Shape{400}, DType::f32);
        CpuStream alone(1), shared(3);
        kernels::pointwise_loss(alone, loss, 333, y.view(), targets.view(), one.view());
        kernels::pointwise_loss(shared, loss, 333, y.view(), targets.view(), three.view());
        EXPECT_TRUE(one.same_bits(three));
    }
}

TEST(PointwiseLossesRefuse, OtherCounts) {
    const Sample y(Shape{4, 3}, DType::f32, 1), targets(Shape{4, 2}, DType::f32, 2), losses(Shape{4}, DType::f32);
    CpuStream stream(1);
    EXPECT_THROW(kernels::pointwise_loss(stream, {}, 3, y.view(), targets.view(), losses.view()), InternalError);
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

} // namespace pointwise_loss_test
