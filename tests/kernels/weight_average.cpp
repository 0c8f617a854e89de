// SPDX-License-Identifier: Apache-2.0
// Running averages against a plain loop in double, and the exchange.
#include "kernels/weight_average.hpp"
#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <array>
#include <gtest/gtest.h>

using namespace tessera;

namespace weight_average_test {

namespace {

template <class Device> class WeightAverage : public testing::Test {};
TYPED_TEST_SUITE(WeightAverage, Devices, DeviceNames);

constexpr std::int64_t counts[] = {0, 1, 7, 300, 100'000};

Sample scalar(double value) {
    Sample made(Shape{}, DType::f32);
    made.set(0, value);
    return made;
}

} // namespace

TYPED_TEST(WeightAverage, IsThatOfAPlainLoop) {
    for (const std::int64_t count : counts) {
        TypeParam on;
        const Sample weight(Shape{count}, DType::f32, 1), average(Shape{count}, DType::f32, 2), share = scalar(0.125);
        const Sample of_two(Shape{5}, DType::f32, 3), second(Shape{5}, DType::f32, 4), factor = scalar(0.3);
        std::vector<double> expected = average.values(), expected_second = second.values();
        for (std::int64_t i = 0; i < count; ++i)
            expected[static_cast<std::size_t>(i)] += 0.125 * (weight[i] - average[i]);
        for (std::int64_t i = 0; i < 5; ++i)
            expected_second[static_cast<std::size_t>(i)] += 0.125 * (of_two[i] - second[i]);
        const std::array<View, 2> weights{on(weight), on(of_two)}, averages{on(average), on(second)};
        kernels::average_weights(on.stream(), on(share), on(factor), weights, averages);
        on.finish();
        EXPECT_TRUE(close_to(average, expected, tolerance(DType::f32, Kind::update))) << count;
        EXPECT_TRUE(close_to(second, expected_second, tolerance(DType::f32, Kind::update))) << count;
    }
}

TYPED_TEST(WeightAverage, AWholeShareCopiesAndNoFactorChangesNothing) {
    TypeParam on;
    const Sample weight(Shape{301}, DType::f32, 1), average(Shape{301}, DType::f32, 2);
    const Sample one = scalar(1), none = scalar(0);
    const std::vector<double> before = average.values();
    const std::array<View, 1> weights{on(weight)}, averages{on(average)};
    kernels::average_weights(on.stream(), on(one), on(none), weights, averages);
    on.finish();
    EXPECT_EQ(average.values(), before);
    const std::array<View, 1> weights_again{on(weight)}, averages_again{on(average)};
    kernels::average_weights(on.stream(), on(one), on(one), weights_again, averages_again);
    on.finish();
    EXPECT_EQ(average.values(), weight.values());
}

TYPED_TEST(WeightAverage, IsExchangedToTheBit) {
    for (const std::int64_t count : counts) {
        TypeParam on;
        const Sample one(Shape{count}, DType::f32, 1), other(Shape{count}, DType::f32, 2);
        const std::vector<double> first = one.values(), second = other.values();
        const std::array<View, 1> a{on(one)}, b{on(other)};
        kernels::exchange(on.stream(), a, b);
        on.finish();
        EXPECT_EQ(one.values(), second);
        EXPECT_EQ(other.values(), first);
    }
}

TYPED_TEST(WeightAverage, CountsThatDifferAreRefused) {
    TypeParam on;
    const Sample four(Shape{4}, DType::f32), five(Shape{5}, DType::f32), one = scalar(1);
    const std::array<View, 1> a{on(four)}, b{on(five)};
    EXPECT_THROW(kernels::exchange(on.stream(), a, b), InternalError);
    EXPECT_THROW(kernels::exchange(on.stream(), a, {}), InternalError);
    EXPECT_THROW(kernels::average_weights(on.stream(), on(one), on(one), a, b), InternalError);
    EXPECT_THROW(kernels::average_weights(on.stream(), on(four), on(one), a, a), InternalError);
}

} // namespace weight_average_test
