// SPDX-License-Identifier: Apache-2.0
// The cross entropy of probabilities against a plain loop in double; of a class alone it is that of a label; the same
// bits on any number of threads.
#include "kernels/soft_cross_entropy.hpp"
#include "kernels/smoothed_cross_entropy.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <gtest/gtest.h>

using namespace tessera;

namespace soft_cross_entropy_test {

namespace {

template <class Device> class SoftCrossEntropy : public testing::Test {};
TYPED_TEST_SUITE(SoftCrossEntropy, Devices, DeviceNames);

struct Sizes {
    std::int64_t rows, classes, columns;
};

// Two classes share a row; each fourth has none.
Sample some_probabilities(const Sizes& of) {
    Sample probabilities(Shape{of.rows, of.classes}, DType::f32);
    for (std::int64_t n = 0; n < of.rows; ++n)
        for (const auto& [factor, share] : {std::pair(7, 0.3), std::pair(11, 0.7)})
            if (const std::int64_t at = n * of.classes + (n * factor + 1) % of.classes; n % 4 != 3)
                probabilities.set(at, probabilities[at] + share);
    return probabilities;
}

struct Plain {
    std::vector<double> losses, gradient;
};

Plain plain(const Sizes& of, double smoothing, const Sample& logits, const Sample& probabilities, double scale) {
    Plain made{std::vector<double>(static_cast<std::size_t>(of.rows)),
               std::vector<double>(static_cast<std::size_t>(of.rows * of.columns))};
    for (std::int64_t n = 0; n < of.rows; ++n) {
        double powers = 0, all = 0;
        for (std::int64_t v = 0; v < of.classes; ++v) {
            powers += std::exp(logits[n * of.columns + v]);
            all += probabilities[n * of.classes + v];
        }
        for (std::int64_t v = 0; v < of.classes; ++v) {
            const double logit = logits[n * of.columns + v];
            const double wanted =
                (1 - smoothing) * probabilities[n * of.classes + v] + smoothing / static_cast<double>(of.classes) * all;
            made.losses[static_cast<std::size_t>(n)] += wanted * (std::log(powers) - logit);
            made.gradient[static_cast<std::size_t>(n * of.columns + v)] =
                scale * (std::exp(logit) / powers * all - wanted);
        }
    }
    return made;
}

} // namespace

TYPED_TEST(SoftCrossEntropy, IsThatOfAPlainLoop) {
    for (const Sizes& of : {Sizes{1, 1, 1}, {5, 7, 7}, {9, 33, 40}, {3, 5000, 5003}, {0, 4, 4}})
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
            for (const float smoothing : {0.0f, 0.1f}) {
                TypeParam on;
                const Sample logits(Shape{of.rows, of.columns}, dtype, 1), probabilities = some_probabilities(of);
                const Sample scale(Shape{1}, DType::f32, 3), losses(Shape{of.rows}, DType::f32);
                const Sample gradient(Shape{of.rows, of.columns}, dtype), in_place(logits);
                for (const Sample* to : {&gradient, &in_place})
                    kernels::soft_cross_entropy_with_gradient(on.stream(), of.classes, smoothing,
                                                              to == &gradient ? on(logits) : on(in_place),
                                                              on(probabilities), on(scale), on(losses), on(*to));
                on.finish();
                const Plain expected = plain(of, smoothing, logits, probabilities, scale[0]);
                EXPECT_TRUE(close_to(losses, expected.losses, tolerance(DType::f32, Kind::norm))) << of.classes;
                EXPECT_TRUE(close_to(gradient, expected.gradient, tolerance(dtype, Kind::norm)))
                    << of.classes << " " << name_of(dtype) << " " << smoothing;
                EXPECT_TRUE(in_place.same_bits(gradient));
            }
}

TEST(SoftCrossEntropyOfOneClass, IsThatOfTheLabel) {
    const std::int64_t rows = 6, classes = 21;
    const Sample logits(Shape{rows, classes}, DType::f32, 1), scale(Shape{1}, DType::f32, 3);
    Sample targets(Shape{rows}, DType::i32), probabilities(Shape{rows, classes}, DType::f32);
    for (std::int64_t n = 0; n < rows; ++n) {
        targets.set(n, static_cast<double>(n * 5 % classes));
        probabilities.set(n * classes + n * 5 % classes, 1);
    }
    const Sample hard(Shape{rows}, DType::f32), soft(Shape{rows}, DType::f32);
    const Sample of_hard(Shape{rows, classes}, DType::f32), of_soft(Shape{rows, classes}, DType::f32);
    CpuStream stream(1);
    kernels::smoothed_cross_entropy_with_gradient(stream, classes, 0.1f, logits.view(), targets.view(), {},
                                                  scale.view(), hard.view(), of_hard.view());
    kernels::soft_cross_entropy_with_gradient(stream, classes, 0.1f, logits.view(), probabilities.view(), scale.view(),
                                              soft.view(), of_soft.view());
    for (std::int64_t i = 0; i < rows * classes; ++i)
        EXPECT_NEAR(of_hard[i], of_soft[i], 1e-6);
    for (std::int64_t n = 0; n < rows; ++n)
        EXPECT_NEAR(hard[n], soft[n], 1e-5);
}

TEST(SoftCrossEntropyOnThreads, HasTheSameBits) {
    const Sizes of{400, 333, 333};
    const Sample logits(Shape{400, 333}, DType::f32, 1), probabilities = some_probabilities(of);
    const Sample scale(Shape{1}, DType::f32, 3), one(Shape{400}, DType::f32), three(Shape{400}, DType::f32);
    const Sample of_one(Shape{400, 333}, DType::f32), of_three(Shape{400, 333}, DType::f32);
    CpuStream alone(1), shared(3);
    kernels::soft_cross_entropy_with_gradient(alone, 333, 0.1f, logits.view(), probabilities.view(), scale.view(),
                                              one.view(), of_one.view());
    kernels::soft_cross_entropy_with_gradient(shared, 333, 0.1f, logits.view(), probabilities.view(), scale.view(),
                                              three.view(), of_three.view());
    EXPECT_TRUE(one.same_bits(three));
    EXPECT_TRUE(of_one.same_bits(of_three));
}

} // namespace soft_cross_entropy_test
