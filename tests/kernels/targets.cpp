// SPDX-License-Identifier: Apache-2.0
// Which targets count, against plain loops; and what a mean over them makes of a step's sums.
#include "kernels/targets.hpp"
#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <gtest/gtest.h>

using namespace tessera;

namespace targets_test {

namespace {

template <class Device> class Targets : public testing::Test {};
TYPED_TEST_SUITE(Targets, Devices, DeviceNames);

Sample some_targets(std::int64_t count) {
    Sample targets(Shape{count}, DType::i32);
    for (std::int64_t n = 0; n < count; ++n)
        targets.set(n, static_cast<double>(n * 7 % 6 - 1)); // -1 to 4
    return targets;
}

Sample scalar(double value) {
    Sample sample(Shape{}, DType::f32);
    sample.set(0, value);
    return sample;
}

} // namespace

TYPED_TEST(Targets, WeighWhatTheirClassesDo) {
    for (const std::int64_t count : {0, 1, 31, 1000}) {
        TypeParam on;
        const Sample targets = some_targets(count), classes(Shape{4}, DType::f32, 2, 0.1, 3);
        const Sample ones(Shape{count}, DType::f32), weights(Shape{count}, DType::f32), kept(Shape{count}, DType::i32);
        const Sample in_place(targets);
        kernels::target_weights(on.stream(), on(targets), {}, on(ones));
        kernels::target_weights(on.stream(), on(targets), on(classes), on(weights));
        kernels::leave_out(on.stream(), 2, on(targets), on(kept));
        kernels::leave_out(on.stream(), 2, on(in_place), on(in_place));
        on.finish();
        for (std::int64_t n = 0; n < count; ++n) {
            const auto target = static_cast<std::int64_t>(targets[n]);
            EXPECT_EQ(ones[n], target == -1 ? 0 : 1);
            EXPECT_EQ(weights[n], target == -1 || target == 4 ? 0 : classes[target]);
            EXPECT_EQ(kept[n], target == 2 ? -1 : static_cast<double>(target));
        }
        EXPECT_TRUE(in_place.same_bits(kept));
    }
}

TYPED_TEST(Targets, AloneMakeTheMean) {
    for (const double counted : {3.0, 0.0}) {
        TypeParam on;
        const Sample count = scalar(counted), loss = scalar(2.5), square_sum = scalar(0.75);
        const Sample ratio = scalar(-1), mean_loss = scalar(-1), true_square_sum = scalar(-1), product = scalar(-1);
        kernels::mean_over_counted(
            on.stream(), 12, {on(count), on(loss), on(square_sum), on(ratio), on(mean_loss), on(true_square_sum)});
        kernels::multiply_scalars(on.stream(), on(ratio), on(loss), on(product));
        on.finish();
        const double expected = counted > 0 ? 12 / counted : 0;
        EXPECT_EQ(ratio[0], expected);
        EXPECT_EQ(mean_loss[0], 2.5 * expected);
        EXPECT_EQ(true_square_sum[0], 0.75 * expected * expected);
        EXPECT_EQ(product[0], 2.5 * expected);
    }
}

TEST(TargetsRefuse, OtherCounts) {
    CpuStream stream(1);
    const Sample targets = some_targets(4), weights(Shape{3}, DType::f32);
    EXPECT_THROW(kernels::target_weights(stream, targets.view(), {}, weights.view()), InternalError);
}

} // namespace targets_test
