// SPDX-License-Identifier: Apache-2.0
// Optimizer steps against double loops in the order of PyTorch's documentation, and slices against the whole.
#include "kernels/update.hpp"

#include "kernels/error.hpp"
#include "tests/support/sample.hpp"

#include <cmath>

using namespace tessera;
using kernels::Adam;
using kernels::Sgd;

namespace {

constexpr int steps = 5;
constexpr std::int64_t sizes[] = {1, 15, 16, 17, 129, 1000};

// Weight, gradient of each step, state and copy; the state starts at 0.
struct Case {
    Sample weight, first, second, copy, factor;
    std::vector<Sample> gradients;

    explicit Case(std::int64_t size)
        : weight(Shape{size}, DType::f32, 1), first(Shape{size}, DType::f32), second(Shape{size}, DType::f32),
          copy(Shape{size}, DType::bf16), factor(Shape{}, DType::f32) {
        factor.set(0, 0.75);
        for (unsigned step = 0; step < steps; ++step)
            gradients.emplace_back(Shape{size}, DType::f32, 10 + step);
    }
    View part(const Sample& sample, std::int64_t begin, std::int64_t end) const {
        return {static_cast<char*>(sample.view().memory()) + begin * bytes_of(sample.dtype()), Shape{end - begin},
                sample.dtype()};
    }
    void run(CpuStream& stream, Adam settings, std::int64_t begin, std::int64_t end) {
        for (int step = 0; step < steps; ++step) {
            settings.step = step + 1;
            kernels::adam(stream, settings, part(gradients[static_cast<std::size_t>(step)], begin, end), factor.view(),
                          part(weight, begin, end), part(first, begin, end), part(second, begin, end),
                          part(copy, begin, end));
        }
    }
    void run(CpuStream& stream, Sgd settings, std::int64_t begin, std::int64_t end) {
        for (int step = 0; step < steps; ++step) {
            settings.first_step = step == 0;
            kernels::sgd(stream, settings, part(gradients[static_cast<std::size_t>(step)], begin, end), factor.view(),
                         part(weight, begin, end), settings.momentum == 0 ? View{} : part(first, begin, end),
                         part(copy, begin, end));
        }
    }
    void expect_copy() const {
        for (std::int64_t i = 0; i < weight.count(); ++i)
            ASSERT_EQ(copy.view().as<BFloat16>()[i].bits, BFloat16(weight.view().as<float>()[i]).bits) << i;
    }
};

double adam_reference(const Case& test, const Adam& settings, std::int64_t i, double weight) {
    const double lr = settings.learning_rate, b1 = settings.beta1, b2 = settings.beta2, decay = settings.weight_decay;
    double m = 0, v = 0;
    for (int step = 1; step <= steps; ++step) {
        double g = 0.75 * test.gradients[static_cast<std::size_t>(step - 1)][i];
        if (settings.decoupled)
            weight *= 1 - lr * decay;
        else
            g += decay * weight;
        m = b1 * m + (1 - b1) * g;
        v = b2 * v + (1 - b2) * g * g;
        const double m_hat = m / (1 - std::pow(b1, step)), v_hat = v / (1 - std::pow(b2, step));
        weight -= lr * m_hat / (std::sqrt(v_hat) + static_cast<double>(settings.epsilon));
    }
    return weight;
}

double sgd_reference(const Case& test, const Sgd& settings, std::int64_t i, double weight) {
    const double lr = settings.learning_rate, mu = settings.momentum;
    double velocity = 0;
    for (int step = 0; step < steps; ++step) {
        double g = 0.75 * test.gradients[static_cast<std::size_t>(step)][i];
        g += settings.weight_decay * weight;
        if (mu != 0) {
            velocity = step == 0 ? g : mu * velocity + g;
            g = settings.nesterov ? g + mu * velocity : velocity;
        }
        weight -= lr * g;
    }
    return weight;
}

template <class Settings, class Reference> void expect_steps(const Settings& settings, const Reference& reference) {
    CpuStream stream(2);
    for (const std::int64_t size : sizes) {
        Case test(size);
        std::vector<double> expected;
        for (std::int64_t i = 0; i < size; ++i)
            expected.push_back(reference(test, settings, i, test.weight[i]));
        test.run(stream, settings, 0, size);
        EXPECT_TRUE(close_to(test.weight, expected, tolerance(DType::f32, Kind::update))) << size;
        test.expect_copy();
    }
}

template <class Settings> void expect_slices_equal_the_whole(const Settings& settings) {
    CpuStream stream(2);
    for (const std::int64_t cut : {1, 7, 16, 100, 250}) {
        Case whole(263), parts(263);
        whole.run(stream, settings, 0, 263);
        parts.run(stream, settings, 0, cut);
        parts.run(stream, settings, cut, 263);
        EXPECT_TRUE(parts.weight.same_bits(whole.weight)) << cut;
        EXPECT_TRUE(parts.first.same_bits(whole.first)) << cut;
        EXPECT_TRUE(parts.second.same_bits(whole.second)) << cut;
        EXPECT_TRUE(parts.copy.same_bits(whole.copy)) << cut;
    }
}

const Adam adamw{.learning_rate = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f, .weight_decay = 0.1f};
const Sgd nesterov{.learning_rate = 0.1f, .momentum = 0.9f, .weight_decay = 0.01f, .nesterov = true};

} // namespace

TEST(Update, AdamWithBothKindsOfDecay) {
    Adam settings = adamw;
    expect_steps(settings, adam_reference);
    settings.decoupled = false;
    expect_steps(settings, adam_reference);
    settings.weight_decay = 0;
    expect_steps(settings, adam_reference);
}

TEST(Update, SgdPlainWithMomentumAndNesterov) {
    Sgd settings{.learning_rate = 0.1f};
    expect_steps(settings, sgd_reference);
    settings.weight_decay = 0.05f;
    expect_steps(settings, sgd_reference);
    settings.momentum = 0.9f;
    expect_steps(settings, sgd_reference);
    settings.nesterov = true;
    expect_steps(settings, sgd_reference);
}

TEST(Update, TheFirstStepDoesNotReadTheVelocity) {
    CpuStream stream;
    Case test(20);
    for (std::int64_t i = 0; i < 20; ++i)
        test.first.set(i, std::nan(""));
    test.run(stream, nesterov, 0, 20);
    for (const double value : test.weight.values())
        EXPECT_TRUE(std::isfinite(value));
}

TEST(Update, ANullCopyIsLeftOut) {
    CpuStream stream;
    Case with(33), without(33);
    with.run(stream, adamw, 0, 33);
    for (int step = 0; step < steps; ++step) {
        Adam settings = adamw;
        settings.step = step + 1;
        kernels::adam(stream, settings, without.gradients[static_cast<std::size_t>(step)].view(), without.factor.view(),
                      without.weight.view(), without.first.view(), without.second.view(), {});
    }
    EXPECT_TRUE(with.weight.same_bits(without.weight));
}

TEST(Update, SlicesEqualTheWhole) {
    expect_slices_equal_the_whole(adamw);
    expect_slices_equal_the_whole(nesterov);
}

TEST(Update, TheSameBitsForAnyThreads) {
    for (Sample Case::*result : {&Case::weight, &Case::first, &Case::second, &Case::copy}) {
        expect_same_bits_for_any_threads([&](CpuStream& stream) {
            Case test(100003);
            test.run(stream, adamw, 0, 100003);
            return test.*result;
        });
        expect_same_bits_for_any_threads([&](CpuStream& stream) {
            Case test(100003);
            test.run(stream, nesterov, 0, 100003);
            return test.*result;
        });
    }
}

TEST(Update, TheClipFactor) {
    CpuStream stream;
    Sample square_sum(Shape{}, DType::f32);
    const Sample norm(Shape{}, DType::f32), factor(Shape{}, DType::f32);
    const auto clip = [&](double sum, float max_norm) {
        square_sum.set(0, sum);
        kernels::clip_factor(stream, square_sum.view(), max_norm, norm.view(), factor.view());
        return factor[0];
    };
    EXPECT_NEAR(clip(16, 1), 0.25, 1e-6);
    EXPECT_EQ(norm[0], 4);
    EXPECT_EQ(clip(16, 5), 1);
    EXPECT_EQ(clip(16, 0), 1);
    EXPECT_EQ(clip(0, 1), 1);
    EXPECT_TRUE(std::isnan(clip(std::nan(""), 1)));
}

TEST(Update, WrongCountsAreRefused) {
    CpuStream stream;
    Case test(4);
    const Sample five(Shape{5}, DType::f32);
    EXPECT_THROW(kernels::adam(stream, adamw, five.view(), test.factor.view(), test.weight.view(), test.first.view(),
                               test.second.view(), {}),
                 InternalError);
    EXPECT_THROW(kernels::sgd(stream, nesterov, test.first.view(), test.factor.view(), test.weight.view(), {}, {}),
                 InternalError);
}
