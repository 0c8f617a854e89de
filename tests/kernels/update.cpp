// SPDX-License-Identifier: Apache-2.0
// Optimizer steps against double loops in the order of PyTorch's documentation, and slices against the whole.
#include "kernels/update.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <deque>

using namespace tessera;

namespace update_test {
using kernels::Adam;
using kernels::Sgd;

namespace {

constexpr int steps = 5;
constexpr std::int64_t sizes[] = {1, 3, 15, 16, 17, 129, 1000, 4096, 9001};

// With the rate, which kernels read from memory.
struct AdamAt : Adam {
    float learning_rate;
};
struct SgdAt : Sgd {
    float learning_rate;
};

// Of one step, which counts from 1.
Sample pace_of(const AdamAt& settings, int step) {
    Sample pace(Shape{kernels::adam_pace_count}, DType::f32);
    kernels::write_adam_pace(pace.view(), settings, settings.learning_rate, step);
    return pace;
}
Sample pace_of(const SgdAt& settings) {
    Sample rate(Shape{}, DType::f32);
    rate.set(0, settings.learning_rate);
    return rate;
}

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
    // The views of one step, which a kernel is handed as lists of one.
    struct Step {
        View gradient, weight, first, second, copy;
    };
    template <class Device> Step part(Device& on, int step, std::int64_t begin, std::int64_t end) const {
        const auto cut = [&](const Sample& sample) {
            return View(static_cast<char*>(on(sample).memory()) + begin * bytes_of(sample.dtype()), Shape{end - begin},
                        sample.dtype());
        };
        return {cut(gradients[static_cast<std::size_t>(step)]), cut(weight), cut(first), cut(second), cut(copy)};
    }
    template <class Device> void run(Device& on, const AdamAt& settings, std::int64_t begin, std::int64_t end) {
        std::deque<Sample> paces;
        for (int step = 0; step < steps; ++step) {
            const Sample& pace = paces.emplace_back(pace_of(settings, step + 1));
            const Step p = part(on, step, begin, end);
            kernels::adam(on.stream(), settings, on(pace), on(factor),
                          {{&p.gradient, 1}, {&p.weight, 1}, {&p.first, 1}, {&p.second, 1}, {&p.copy, 1}});
        }
        on.finish();
    }
    template <class Device> void run(Device& on, const SgdAt& settings, std::int64_t begin, std::int64_t end) {
        const Sample rate = pace_of(settings);
        for (int step = 0; step < steps; ++step) {
            const Step p = part(on, step, begin, end);
            const View velocity = settings.momentum == 0 ? View{} : p.first;
            kernels::sgd(on.stream(), settings, on(rate), on(factor),
                         {{&p.gradient, 1}, {&p.weight, 1}, {&velocity, 1}, {&p.copy, 1}});
        }
        on.finish();
    }
    void expect_same(const Case& other) const {
        EXPECT_TRUE(weight.same_bits(other.weight)) << weight.count();
        EXPECT_TRUE(first.same_bits(other.first)) << weight.count();
        EXPECT_TRUE(second.same_bits(other.second)) << weight.count();
        EXPECT_TRUE(copy.same_bits(other.copy)) << weight.count();
    }
    void expect_copy() const {
        for (std::int64_t i = 0; i < weight.count(); ++i)
            ASSERT_EQ(copy.view().as<BFloat16>()[i].bits, BFloat16(weight.view().as<float>()[i]).bits) << i;
    }
};

double adam_reference(const Case& test, const AdamAt& settings, std::int64_t i, double weight) {
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

double sgd_reference(const Case& test, const SgdAt& settings, std::int64_t i, double weight) {
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

template <class Device, class Settings, class Reference>
void expect_steps(const Settings& settings, const Reference& reference) {
    Device on;
    for (const std::int64_t size : sizes) {
        Case test(size);
        std::vector<double> expected;
        for (std::int64_t i = 0; i < size; ++i)
            expected.push_back(reference(test, settings, i, test.weight[i]));
        test.run(on, settings, 0, size);
        EXPECT_TRUE(close_to(test.weight, expected, tolerance(DType::f32, Kind::update))) << size;
        test.expect_copy();
    }
}

template <class Device, class Settings> void expect_slices_equal_the_whole(const Settings& settings) {
    Device on;
    for (const std::int64_t cut : {1, 7, 16, 100, 250}) {
        Case whole(263), parts(263);
        whole.run(on, settings, 0, 263);
        parts.run(on, settings, 0, cut);
        parts.run(on, settings, cut, 263);
        whole.expect_same(parts);
    }
}

const AdamAt adamw{{.beta1 = 0.9f, .beta2 = 0.95f, .epsilon = 1e-8f, .weight_decay = 0.1f}, 0.01f};
const SgdAt nesterov{{.momentum = 0.9f, .weight_decay = 0.01f, .nesterov = true}, 0.1f};

// Views of the same kind, one of each case.
template <class Device> std::vector<View> views_of(Device& on, std::deque<Case>& cases, Sample Case::*kind) {
    std::vector<View> views;
    for (Case& test : cases)
        views.push_back(on(test.*kind));
    return views;
}

// All cases in one call.
template <class Device>
void run_together(Device& on, std::deque<Case>& cases, const AdamAt& settings, const SgdAt* sgd) {
    const Sample pace = sgd == nullptr ? pace_of(settings, 1) : pace_of(*sgd);
    std::vector<View> gradients;
    for (Case& test : cases)
        gradients.push_back(on(test.gradients[0]));
    const std::vector<View> weights = views_of(on, cases, &Case::weight), first = views_of(on, cases, &Case::first);
    const std::vector<View> second = views_of(on, cases, &Case::second);
    std::vector<View> copies = views_of(on, cases, &Case::copy);
    for (std::size_t i = 0; i < copies.size(); i += 3)
        copies[i] = {};
    if (sgd == nullptr)
        kernels::adam(on.stream(), settings, on(pace), on(cases[0].factor),
                      {gradients, weights, first, second, copies});
    else
        kernels::sgd(on.stream(), *sgd, on(pace), on(cases[0].factor), {gradients, weights, first, copies});
    on.finish();
}

} // namespace

template <class Device> class Update : public testing::Test {};
TYPED_TEST_SUITE(Update, Devices, DeviceNames);

TYPED_TEST(Update, AdamWithBothKindsOfDecay) {
    AdamAt settings = adamw;
    expect_steps<TypeParam>(settings, adam_reference);
    settings.decoupled = false;
    expect_steps<TypeParam>(settings, adam_reference);
    settings.weight_decay = 0;
    expect_steps<TypeParam>(settings, adam_reference);
}

TYPED_TEST(Update, SgdPlainWithMomentumAndNesterov) {
    SgdAt settings{{}, 0.1f};
    expect_steps<TypeParam>(settings, sgd_reference);
    settings.weight_decay = 0.05f;
    expect_steps<TypeParam>(settings, sgd_reference);
    settings.momentum = 0.9f;
    expect_steps<TypeParam>(settings, sgd_reference);
    settings.nesterov = true;
    expect_steps<TypeParam>(settings, sgd_reference);
}

TYPED_TEST(Update, WithoutCopiesTheWeightsAreTheSame) {
    TypeParam on;
    Case with(33), without(33);
    with.run(on, adamw, 0, 33);
    std::deque<Sample> paces;
    for (int step = 0; step < steps; ++step) {
        const Sample& pace = paces.emplace_back(pace_of(adamw, step + 1));
        const Case::Step p = without.part(on, step, 0, 33);
        kernels::adam(on.stream(), adamw, on(pace), on(without.factor),
                      {{&p.gradient, 1}, {&p.weight, 1}, {&p.first, 1}, {&p.second, 1}, {}});
    }
    on.finish();
    EXPECT_TRUE(with.weight.same_bits(without.weight));
}

TYPED_TEST(Update, SlicesEqualTheWhole) {
    expect_slices_equal_the_whole<TypeParam>(adamw);
    expect_slices_equal_the_whole<TypeParam>(nesterov);
}

// More tensors than one launch takes, some of them empty.
TYPED_TEST(Update, ManyTensorsAreUpdatedAsEachAlone) {
    for (const SgdAt* sgd : {static_cast<const SgdAt*>(nullptr), &nesterov}) {
        TypeParam on;
        std::deque<Case> together, alone;
        for (std::int64_t i = 0; i < 150; ++i) {
            const std::int64_t size = i % 50 == 49 ? 10000 : i * 7 % 40;
            together.emplace_back(size);
            alone.emplace_back(size);
        }
        run_together(on, together, adamw, sgd);
        for (std::size_t i = 0; i < alone.size(); ++i) {
            std::deque<Case> one;
            one.emplace_back(alone[i].weight.count());
            run_together(on, one, adamw, sgd);
            EXPECT_TRUE(one[0].weight.same_bits(together[i].weight)) << i;
            EXPECT_TRUE(one[0].first.same_bits(together[i].first)) << i;
            EXPECT_TRUE(one[0].second.same_bits(together[i].second)) << i;
            if (i % 3 == 0)
                EXPECT_TRUE(together[i].copy.same_bits(alone[i].copy)) << i;
            else
                together[i].expect_copy();
        }
        run_together(on, alone, adamw, sgd);
        for (std::size_t i = 0; i < alone.size(); ++i)
            alone[i].expect_same(together[i]);
    }
}

TEST(UpdateOnCpu, TheSameBitsForAnyThreads) {
    for (Sample Case::*result : {&Case::weight, &Case::first, &Case::second, &Case::copy}) {
        expect_same_bits_for_any_threads([&](CpuStream& stream) {
            Case test(100003);
            OnCpu on(stream.threads());
            test.run(on, adamw, 0, 100003);
            return test.*result;
        });
        expect_same_bits_for_any_threads([&](CpuStream& stream) {
            Case test(100003);
            OnCpu on(stream.threads());
            test.run(on, nesterov, 0, 100003);
            return test.*result;
        });
    }
}

TYPED_TEST(Update, TheClipFactor) {
    TypeParam on;
    Sample square_sum(Shape{}, DType::f32);
    const Sample norm(Shape{}, DType::f32), factor(Shape{}, DType::f32);
    const auto clip = [&](double sum, float max_norm) {
        square_sum.set(0, sum);
        kernels::clip_factor(on.stream(), on(square_sum), max_norm, on(norm), on(factor));
        on.finish();
        return factor[0];
    };
    EXPECT_NEAR(clip(16, 1), 0.25, 1e-6);
    EXPECT_EQ(norm[0], 4);
    EXPECT_EQ(clip(16, 5), 1);
    EXPECT_EQ(clip(16, 0), 1);
    EXPECT_EQ(clip(0, 1), 1);
    for (const float max_norm : {0.0f, 1.0f})
        for (const double odd : {static_cast<double>(INFINITY), std::nan("")}) {
            EXPECT_EQ(clip(odd, max_norm), 0) << "the step would change weights";
            EXPECT_FALSE(std::isfinite(norm[0]));
        }
}

TYPED_TEST(Update, WrongCountsAreRefused) {
    TypeParam on;
    Case test(4);
    const Sample five(Shape{5}, DType::f32), pace = pace_of(adamw, 1), rate = pace_of(nesterov);
    const Case::Step p = test.part(on, 0, 0, 4);
    const View wrong = on(five), none;
    const auto adam = [&](const kernels::AdamTensors& tensors) {
        kernels::adam(on.stream(), adamw, on(pace), on(test.factor), tensors);
    };
    EXPECT_THROW(kernels::adam(on.stream(), adamw, on(rate), on(test.factor), {}), InternalError);
    EXPECT_THROW(kernels::sgd(on.stream(), nesterov, on(pace), on(test.factor), {}), InternalError);
    EXPECT_THROW(adam({{&wrong, 1}, {&p.weight, 1}, {&p.first, 1}, {&p.second, 1}, {}}), InternalError);
    EXPECT_THROW(adam({{&p.gradient, 1}, {&p.weight, 1}, {&p.first, 1}, {}, {}}), InternalError);
    EXPECT_THROW(adam({{&p.gradient, 1}, {&p.weight, 1}, {&p.first, 1}, {&p.second, 1}, {&wrong, 1}}), InternalError);
    const auto sgd = [&](ConstView factor, const kernels::SgdTensors& tensors) {
        kernels::sgd(on.stream(), nesterov, on(rate), factor, tensors);
    };
    EXPECT_THROW(sgd(on(test.factor), {{&p.first, 1}, {&p.weight, 1}, {&none, 1}, {}}), InternalError);
    EXPECT_THROW(sgd(wrong, {{&p.first, 1}, {&p.weight, 1}, {&p.second, 1}, {}}), InternalError);
}

} // namespace update_test
