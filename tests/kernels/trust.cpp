// SPDX-License-Identifier: Apache-2.0
// LAMB and LARS against plain loops in double, over many tensors; a factor of 0 changes nothing; the same bits on any
// number of threads.
#include "kernels/trust.hpp"
#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <gtest/gtest.h>

using namespace tessera;

namespace trust_test {

namespace {

template <class Device> class Trust : public testing::Test {};
TYPED_TEST_SUITE(Trust, Devices, DeviceNames);

const std::vector<std::int64_t> counts = {1, 16, 33, 5000, 4096, 7};

// Tensors of all these sizes: gradients, weights and states.
struct Tensors {
    std::deque<Sample> gradients, weights, first, second;
    Tensors() {
        for (std::size_t i = 0; i < counts.size(); ++i) {
            const auto seed = static_cast<unsigned>(10 * i);
            const Shape shape{counts[i]};
            gradients.emplace_back(shape, DType::f32, seed + 1);
            weights.emplace_back(shape, DType::f32, seed + 2);
            first.emplace_back(shape, DType::f32, seed + 3);
            second.emplace_back(shape, DType::f32, seed + 4, 0.1, 2);
        }
    }
    Tensors(const Tensors&) = default;
};

template <class On> std::vector<View> views(On& on, const std::deque<Sample>& samples) {
    std::vector<View> all;
    for (const Sample& sample : samples)
        all.push_back(on(sample));
    return all;
}

template <class On, class Step> void run(On& on, const Tensors& tensors, const Step& step) {
    const std::vector<View> gradients = views(on, tensors.gradients), weights = views(on, tensors.weights);
    const std::vector<View> first = views(on, tensors.first), second = views(on, tensors.second);
    step(kernels::TrustTensors{gradients, weights, first, second});
}

Sample of(const std::vector<double>& values) {
    Sample sample(Shape{static_cast<std::int64_t>(values.size())}, DType::f32);
    for (std::size_t i = 0; i < values.size(); ++i)
        sample.set(static_cast<std::int64_t>(i), values[i]);
    return sample;
}

std::vector<double> squares_of(double first) {
    std::vector<double> squares;
    for (std::size_t i = 0; i < counts.size(); ++i)
        squares.push_back(i == 2 ? 0 : first + static_cast<double>(i)); // one has no norm
    return squares;
}

} // namespace

TYPED_TEST(Trust, DirectionsAndStepsOfLambAreThoseOfAPlainLoop) {
    const kernels::Lamb settings{0.8f, 0.95f, 1e-3f, 0.3f};
    for (const bool adapts : {true, false})
        for (const double factor : {0.5, 0.0}) {
            TypeParam on;
            const Tensors before;
            const Tensors after(before);
            const Sample by = of({factor}), w2 = of(squares_of(2)), d2 = of(squares_of(3));
            Sample pace(Shape{kernels::lamb_pace_count}, DType::f32);
            kernels::write_lamb_pace(pace.view(), settings, 0.1f, 3);
            run(on, after, [&](const kernels::TrustTensors& tensors) {
                kernels::lamb_direction(on.stream(), settings, on(pace), on(by), tensors);
                kernels::lamb_step(on.stream(), adapts, on(pace), on(by), on(w2), on(d2), tensors);
            });
            on.finish();
            for (std::size_t t = 0; t < counts.size(); ++t) {
                std::vector<double> weights, directions, moments;
                for (std::int64_t i = 0; i < counts[t]; ++i) {
                    const double g = factor * before.gradients[t][i], w = before.weights[t][i];
                    const double m = 0.8 * before.first[t][i] + 0.2 * g, v = 0.95 * before.second[t][i] + 0.05 * g * g;
                    const double d =
                        m / (1 - std::pow(0.8, 3)) / (std::sqrt(v / (1 - std::pow(0.95, 3))) + 1e-3) + 0.3 * w;
                    const double ratio =
                        adapts && w2[static_cast<std::int64_t>(t)] > 0
                            ? std::sqrt(w2[static_cast<std::int64_t>(t)] / d2[static_cast<std::int64_t>(t)])
                            : 1;
                    weights.push_back(factor == 0 ? w : w - 0.1 * ratio * d);
                    directions.push_back(factor == 0 ? before.gradients[t][i] : d);
                    moments.push_back(factor == 0 ? before.first[t][i] : m);
                }
                EXPECT_TRUE(close_to(after.weights[t], weights, tolerance(DType::f32, Kind::update))) << t;
                EXPECT_TRUE(close_to(after.gradients[t], directions, tolerance(DType::f32, Kind::update))) << t;
                EXPECT_TRUE(close_to(after.first[t], moments, tolerance(DType::f32, Kind::update))) << t;
            }
        }
}

TYPED_TEST(Trust, StepsOfLarsAreThoseOfAPlainLoop) {
    const kernels::Lars settings{0.9f, 0.3f, 0.02f};
    for (const bool adapts : {true, false}) {
        TypeParam on;
        const Tensors before;
        const Tensors after(before);
        const Sample by = of({0.5}), rate = of({0.1}), w2 = of(squares_of(2)), g2 = of(squares_of(3));
        run(on, after, [&](const kernels::TrustTensors& tensors) {
            kernels::lars(on.stream(), settings, adapts, on(rate), on(by), on(w2), on(g2), tensors);
        });
        on.finish();
        for (std::size_t t = 0; t < counts.size(); ++t) {
            const double weight = std::sqrt(w2[static_cast<std::int64_t>(t)]);
            const double gradient = 0.5 * std::sqrt(g2[static_cast<std::int64_t>(t)]);
            const double local = adapts && weight > 0 ? 0.02 * weight / (gradient + 0.3 * weight) : 1;
            std::vector<double> weights, velocities;
            for (std::int64_t i = 0; i < counts[t]; ++i) {
                const double w = before.weights[t][i];
                velocities.push_back(0.9 * before.first[t][i] + local * (0.5 * before.gradients[t][i] + 0.3 * w));
                weights.push_back(w - 0.1 * velocities.back());
            }
            EXPECT_TRUE(close_to(after.weights[t], weights, tolerance(DType::f32, Kind::update))) << t;
            EXPECT_TRUE(close_to(after.first[t], velocities, tolerance(DType::f32, Kind::update))) << t;
        }
    }
}

TEST(TrustOnThreads, HasTheSameBits) {
    const Sample by = of({0.5}), rate = of({0.1}), squares = of(squares_of(2));
    const Tensors start;
    const Tensors one(start), three(start);
    for (const auto& [tensors, threads] : {std::pair{&one, 1}, std::pair{&three, 3}}) {
        OnCpu on(threads);
        run(on, *tensors, [&](const kernels::TrustTensors& views) {
            kernels::lars(on.stream(), {}, true, on(rate), on(by), on(squares), on(squares), views);
        });
    }
    for (std::size_t t = 0; t < counts.size(); ++t)
        EXPECT_TRUE(one.weights[t].same_bits(three.weights[t]));
}

TEST(TrustRefuses, ListsThatDoNotMatch) {
    OnCpu on;
    const Tensors tensors;
    const Sample by = of({1}), squares = of(squares_of(2));
    run(on, tensors, [&](kernels::TrustTensors views) {
        views.first = views.first.first(2);
        EXPECT_THROW(kernels::lars(on.stream(), {}, true, on(by), on(by), on(squares), on(squares), views),
                     InternalError);
    });
}

} // namespace trust_test
