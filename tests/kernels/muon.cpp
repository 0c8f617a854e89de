// SPDX-License-Identifier: Apache-2.0
// Muon's elementwise parts against plain loops in double.
#include "kernels/muon.hpp"
#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <gtest/gtest.h>

using namespace tessera;

namespace muon_test {

namespace {

template <class Device> class Muon : public testing::Test {};
TYPED_TEST_SUITE(Muon, Devices, DeviceNames);

constexpr std::int64_t counts[] = {0, 1, 7, 300, 100'000};

Sample scalar(double value) {
    Sample made(Shape{}, DType::f32);
    made.set(0, value);
    return made;
}

} // namespace

TYPED_TEST(Muon, DirectionsAreThoseOfAPlainLoop) {
    for (const std::int64_t count : counts) {
        TypeParam on;
        const Sample gradient(Shape{count}, DType::f32, 1), velocity(Shape{count}, DType::f32, 2);
        const Sample direction(Shape{count}, DType::f32), factor = scalar(0.3);
        std::vector<double> velocities = velocity.values(), directions;
        for (std::int64_t i = 0; i < count; ++i) {
            double& v = velocities[static_cast<std::size_t>(i)];
            v = 0.9 * v + 0.3 * gradient[i];
            directions.push_back(0.3 * gradient[i] + 0.9 * v);
        }
        kernels::muon_direction(on.stream(), 0.9f, on(factor), on(gradient), on(velocity), on(direction));
        on.finish();
        EXPECT_TRUE(close_to(velocity, velocities, tolerance(DType::f32, Kind::update))) << count;
        EXPECT_TRUE(close_to(direction, directions, tolerance(DType::f32, Kind::update))) << count;
    }
}

TYPED_TEST(Muon, NothingChangesInASkippedStep) {
    TypeParam on;
    const Sample gradient(Shape{50}, DType::f32, 1), velocity(Shape{50}, DType::f32, 2),
        weight(Shape{50}, DType::f32, 3);
    const Sample direction(Shape{50}, DType::f32, 4), factor = scalar(0), rate = scalar(0.1);
    const std::vector<double> velocities = velocity.values(), weights = weight.values();
    kernels::muon_direction(on.stream(), 0.9f, on(factor), on(gradient), on(velocity), on(direction));
    kernels::muon_step(on.stream(), {.scale = 2, .weight_decay = 0.1f}, on(rate), on(factor), on(direction),
                       on(weight));
    on.finish();
    EXPECT_EQ(velocity.values(), velocities);
    EXPECT_EQ(weight.values(), weights);
    EXPECT_EQ(direction.values(), std::vector<double>(50));
}

TYPED_TEST(Muon, StepsAreThoseOfAPlainLoop) {
    for (const std::int64_t count : counts) {
        TypeParam on;
        const Sample x(Shape{count}, DType::f32, 1), y(Shape{count}, DType::f32), weight(Shape{count}, DType::f32, 3);
        const Sample squares = scalar(7.5), rate = scalar(0.1), factor = scalar(0.3);
        std::vector<double> divided, weights = weight.values();
        for (std::int64_t i = 0; i < count; ++i) {
            divided.push_back(x[i] / (std::sqrt(7.5) + 1e-7));
            double& w = weights[static_cast<std::size_t>(i)];
            w -= 0.1 * (2 * divided.back() + 0.1 * w);
        }
        kernels::divide_by_norm(on.stream(), on(x), on(squares), on(y));
        kernels::muon_step(on.stream(), {.scale = 2, .weight_decay = 0.1f}, on(rate), on(factor), on(y), on(weight));
        on.finish();
        EXPECT_TRUE(close_to(y, divided, tolerance(DType::f32, Kind::update))) << count;
        EXPECT_TRUE(close_to(weight, weights, tolerance(DType::f32, Kind::update))) << count;
    }
}

TYPED_TEST(Muon, CountsThatDifferAreRefused) {
    TypeParam on;
    const Sample four(Shape{4}, DType::f32), five(Shape{5}, DType::f32), one = scalar(1);
    EXPECT_THROW(kernels::muon_direction(on.stream(), 0.9f, on(one), on(four), on(five), on(four)), InternalError);
    EXPECT_THROW(kernels::divide_by_norm(on.stream(), on(four), on(four), on(four)), InternalError);
    EXPECT_THROW(kernels::muon_step(on.stream(), {}, on(one), on(one), on(four), on(five)), InternalError);
}

} // namespace muon_test
