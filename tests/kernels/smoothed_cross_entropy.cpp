// SPDX-License-Identifier: Apache-2.0
// The smoothed and weighted cross entropy against a plain loop in double; the same bits on any number of threads.
#include "kernels/smoothed_cross_entropy.hpp"
#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <gtest/gtest.h>

using namespace tessera;

namespace smoothed_cross_entropy_test {

namespace {

template <class Device> class SmoothedCrossEntropy : public testing::Test {};
TYPED_TEST_SUITE(SmoothedCrossEntropy, Devices, DeviceNames);

struct Sizes {
    std::int64_t rows, classes, columns;
};

Sample some_targets(std::int64_t rows, std::int64_t classes) {
    Sample targets(Shape{rows}, DType::i32);
    for (std::int64_t n = 0; n < rows; ++n)
        targets.set(n, n % 4 == 2 ? kernels::ignore_index : static_cast<double>(n * 7 % classes));
    return targets;
}

struct Plain {
    std::vector<double> losses, gradient;
};

Plain plain(const Sizes& of, double smoothing, const Sample& logits, const Sample& targets, const Sample* weights,
            double scale) {
    Plain made{std::vector<double>(static_cast<std::size_t>(of.rows)),
               std::vector<double>(static_cast<std::size_t>(of.rows * of.columns))};
    for (std::int64_t n = 0; n < of.rows; ++n) {
        const auto target = static_cast<std::int64_t>(targets[n]);
        if (target == kernels::ignore_index) continue;
        double sum = 0, all = 0;
        std::vector<double> q;
        for (std::int64_t v = 0; v < of.classes; ++v) {
            const auto weight = [&](std::int64_t c) { return weights == nullptr ? 1 : (*weights)[c]; };
            sum += std::exp(logits[n * of.columns + v]);
            q.push_back(smoothing / static_cast<double>(of.classes) * weight(v) +
                        (v == target ? (1 - smoothing) * weight(v) : 0));
            all += q.back();
        }
        for (std::int64_t v = 0; v < of.classes; ++v) {
            const double logit = logits[n * of.columns + v], wanted = q[static_cast<std::size_t>(v)];
            made.losses[static_cast<std::size_t>(n)] += wanted * (std::log(sum) - logit);
            made.gradient[static_cast<std::size_t>(n * of.columns + v)] =
                scale * (std::exp(logit) / sum * all - wanted);
        }
    }
    return made;
}

} // namespace

TYPED_TEST(SmoothedCrossEntropy, IsThatOfAPlainLoop) {
    for (const Sizes& of : {Sizes{1, 1, 1}, {5, 7, 7}, {9, 33, 40}, {3, 5000, 5003}, {0, 4, 4}})
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
            for (const float smoothing : {0.0f, 0.1f})
                for (const bool weighted : {false, true}) {
                    TypeParam on;
                    const Sample logits(Shape{of.rows, of.columns}, dtype, 1),
                        targets = some_targets(of.rows, of.classes);
                    const Sample weights(Shape{of.classes}, DType::f32, 2, 0.2, 3), scale(Shape{1}, DType::f32, 3);
                    const Sample alone(Shape{of.rows}, DType::f32), losses(Shape{of.rows}, DType::f32);
                    const Sample gradient(Shape{of.rows, of.columns}, dtype), in_place(logits);
                    const ConstView of_classes = weighted ? ConstView(on(weights)) : ConstView();
                    kernels::smoothed_cross_entropy(on.stream(), of.classes, smoothing, on(logits), on(targets),
                                                    of_classes, on(alone));
                    for (const Sample* to : {&gradient, &in_place})
                        kernels::smoothed_cross_entropy_with_gradient(
                            on.stream(), of.classes, smoothing, to == &gradient ? on(logits) : on(in_place),
                            on(targets), of_classes, on(scale), on(losses), on(*to));
                    on.finish();
                    const Plain expected =
                        plain(of, smoothing, logits, targets, weighted ? &weights : nullptr, scale[0]);
                    EXPECT_TRUE(close_to(losses, expected.losses, tolerance(DType::f32, Kind::norm))) << of.classes;
                    EXPECT_TRUE(close_to(gradient, expected.gradient, tolerance(dtype, Kind::norm)))
                        << of.classes << " " << name_of(dtype) << " " << smoothing << weighted;
                    EXPECT_TRUE(alone.same_bits(losses));
                    EXPECT_TRUE(in_place.same_bits(gradient));
                }
}

TEST(SmoothedCrossEntropyOnThreads, HasTheSameBits) {
    const Sample logits(Shape{400, 333}, DType::f32, 1), targets = some_targets(400, 333);
    const Sample one(Shape{400}, DType::f32), three(Shape{400}, DType::f32);
    CpuStream alone(1), shared(3);
    kernels::smoothed_cross_entropy(alone, 333, 0.1f, logits.view(), targets.view(), {}, one.view());
    kernels::smoothed_cross_entropy(shared, 333, 0.1f, logits.view(), targets.view(), {}, three.view());
    EXPECT_TRUE(one.same_bits(three));
}

TEST(SmoothedCrossEntropyRefuses, ATargetThatIsNoClass) {
    CpuStream stream(1);
    const Sample logits(Shape{1, 4}, DType::f32, 1), losses(Shape{1}, DType::f32);
    Sample targets(Shape{1}, DType::i32);
    targets.set(0, 4);
    EXPECT_THROW(kernels::smoothed_cross_entropy(stream, 4, 0.1f, logits.view(), targets.view(), {}, losses.view()),
                 ConfigError);
}

} // namespace smoothed_cross_entropy_test
