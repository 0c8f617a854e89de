// SPDX-License-Identifier: Apache-2.0
// The loss scale: what it gives a gradient it takes back to the last bit; it falls, grows and stays within its bounds.
#include "kernels/loss_scale.hpp"

#include "kernels/update.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <limits>

using namespace tessera;

namespace loss_scale_test {

namespace {

template <class Device> class LossScales : public testing::Test {};
TYPED_TEST_SUITE(LossScales, Devices, DeviceNames);

struct Scalars {
    Sample sum{Shape{}, DType::f32}, scale{Shape{}, DType::f32}, good{Shape{}, DType::f32};
    Sample skipped{Shape{}, DType::f32}, norm{Shape{}, DType::f32}, factor{Shape{}, DType::f32};

    explicit Scalars(double start) { scale.set(0, start); }
    template <class Device>
    void unscale(Device& on, double square_sum, float max_norm, const kernels::LossScaling& scaling = {}) {
        sum.set(0, square_sum);
        kernels::unscale(on.stream(), on(sum), max_norm, scaling, {on(scale), on(good), on(skipped)}, on(norm),
                         on(factor));
        on.finish();
    }
};

// One step of Adam from a gradient that is `scale` times a random one.
template <class Device> std::vector<double> weights_after(double scale, float max_norm) {
    Device on;
    const Shape shape{301};
    const Sample gradient(shape, DType::f32, 1), weight(shape, DType::f32, 2);
    const Sample first(shape, DType::f32, 3), second(shape, DType::f32, 4, 0, 1);
    Sample scaled(shape, DType::f32);
    float squares = 0;
    for (std::int64_t i = 0; i < shape.count(); ++i) {
        scaled.set(i, gradient[i] * scale);
        squares += static_cast<float>(scaled[i]) * static_cast<float>(scaled[i]);
    }
    Scalars scalars(scale);
    scalars.unscale(on, squares, max_norm);
    const View gradients[] = {on(scaled)}, weights[] = {on(weight)}, firsts[] = {on(first)}, seconds[] = {on(second)};
    const Sample pace(Shape{kernels::adam_pace_count}, DType::f32);
    kernels::write_adam_pace(pace.view(), {}, 1e-3f, 1);
    kernels::adam(on.stream(), {}, on(pace), on(scalars.factor), {gradients, weights, firsts, seconds, {}});
    on.finish();
    std::vector<double> values = weight.values();
    values.push_back(scalars.norm[0]);
    return values;
}

} // namespace

TYPED_TEST(LossScales, LeaveNoTraceInTheUpdate) {
    for (const float max_norm : {0.0f, 1.5f, 1e4f})
        for (const double scale : {2.0, 65536.0, 16777216.0})
            EXPECT_EQ(weights_after<TypeParam>(scale, max_norm), weights_after<TypeParam>(1, max_norm)) << scale;
    EXPECT_NE(weights_after<TypeParam>(1, 1.5f), weights_after<TypeParam>(1, 0));
}

TYPED_TEST(LossScales, FallWhereGradientsAreNotFinite) {
    TypeParam on;
    for (const double sum : {static_cast<double>(INFINITY), static_cast<double>(NAN)})
        for (const float max_norm : {0.0f, 1.0f}) {
            Scalars scalars(1024);
            scalars.good.set(0, 7);
            scalars.skipped.set(0, 2);
            scalars.unscale(on, sum, max_norm, {.backoff = 0.25f});
            EXPECT_EQ(scalars.scale[0], 256);
            EXPECT_EQ(scalars.good[0], 0);
            EXPECT_EQ(scalars.skipped[0], 3);
            EXPECT_EQ(scalars.factor[0], 0);
            EXPECT_FALSE(std::isfinite(scalars.norm[0]));
        }
}

TYPED_TEST(LossScales, GrowAfterGoodStepsUpToTheLargest) {
    TypeParam on;
    Scalars scalars(kernels::largest_loss_scale / 4);
    const kernels::LossScaling scaling{.growth = 2, .interval = 3};
    std::vector<double> scales, counts;
    for (int step = 0; step < 10; ++step) {
        const double before = scalars.scale[0];
        scalars.unscale(on, 16, 0, scaling);
        EXPECT_EQ(scalars.norm[0], 4 / before);
        EXPECT_EQ(scalars.factor[0], 1 / before);
        scales.push_back(scalars.scale[0] * 4 / kernels::largest_loss_scale);
        counts.push_back(scalars.good[0]);
    }
    EXPECT_EQ(scales, (std::vector<double>{1, 1, 2, 2, 2, 4, 4, 4, 4, 4}));
    EXPECT_EQ(counts, (std::vector<double>{1, 2, 0, 1, 2, 0, 1, 2, 0, 1}));
    EXPECT_EQ(scalars.skipped[0], 0);
}

TYPED_TEST(LossScales, AFactorOfZeroChangesNothing) {
    TypeParam on;
    const Shape shape{77};
    const Sample gradient(shape, DType::f32, 1), factor(Shape{}, DType::f32);
    Sample broken(gradient);
    broken.set(5, std::numeric_limits<double>::infinity());
    const Sample weight(shape, DType::f32, 2), first(shape, DType::f32, 3), second(shape, DType::f32, 4, 0, 1);
    const Sample weight_before(weight), first_before(first), second_before(second);
    const View gradients[] = {on(broken)}, weights[] = {on(weight)}, firsts[] = {on(first)}, seconds[] = {on(second)};
    const Sample pace(Shape{kernels::adam_pace_count}, DType::f32), rate(Shape{}, DType::f32, 5, 0.1, 1);
    kernels::write_adam_pace(pace.view(), {.weight_decay = 0.5f}, 1e-3f, 1);
    kernels::adam(on.stream(), {.weight_decay = 0.5f}, on(pace), on(factor), {gradients, weights, firsts, seconds, {}});
    kernels::sgd(on.stream(), {.momentum = 0.9f, .weight_decay = 0.5f}, on(rate), on(factor),
                 {gradients, weights, firsts, {}});
    on.finish();
    EXPECT_TRUE(weight.same_bits(weight_before));
    EXPECT_TRUE(first.same_bits(first_before));
    EXPECT_TRUE(second.same_bits(second_before));
}

} // namespace loss_scale_test
