// SPDX-License-Identifier: Apache-2.0
// Adagrad, RMSProp and Lion against loops in double, and slices and lists of tensors against one whole.
#include "kernels/update_rules.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <deque>
#include <functional>
#include <variant>

using namespace tessera;

namespace update_rules_test {

namespace {

constexpr int steps = 5;
constexpr float rate = 0.05f;

struct Case {
    Sample weight, first, second;
    std::vector<Sample> gradients;

    explicit Case(std::int64_t size)
        : weight(Shape{size}, DType::f32, 1), first(Shape{size}, DType::f32), second(Shape{size}, DType::f32) {
        for (unsigned step = 0; step < steps; ++step)
            gradients.emplace_back(Shape{size}, DType::f32, 10 + step);
    }
    void expect_same(const Case& other) const {
        EXPECT_TRUE(weight.same_bits(other.weight)) << weight.count();
        EXPECT_TRUE(first.same_bits(other.first)) << weight.count();
        EXPECT_TRUE(second.same_bits(other.second)) << weight.count();
    }
};

struct State {
    double weight = 0, first = 0, second = 0;
};

template <class S> void apply(S& s, const kernels::Adagrad& f, ConstView at, ConstView factor, const auto& tensors) {
    kernels::adagrad(s, f, at, factor, tensors);
}
template <class S> void apply(S& s, const kernels::RmsProp& f, ConstView at, ConstView factor, const auto& tensors) {
    kernels::rmsprop(s, f, at, factor, tensors);
}
template <class S> void apply(S& s, const kernels::Lion& f, ConstView at, ConstView factor, const auto& tensors) {
    kernels::lion(s, f, at, factor, tensors);
}

// A rule for any device, and in double on one element, whose gradient is the clipped one.
struct Rule {
    std::string name;
    std::variant<kernels::Adagrad, kernels::RmsProp, kernels::Lion> settings;
    std::function<void(State&, double gradient)> reference;
};

Rule adagrad(const kernels::Adagrad& f) {
    return {"adagrad", f, [f](State& e, double g) {
                g += f.weight_decay * e.weight;
                e.first += g * g;
                e.weight -= rate * g / (std::sqrt(e.first) + f.epsilon);
            }};
}

Rule rmsprop(const kernels::RmsProp& f) {
    return {"rmsprop", f, [f](State& e, double g) {
                g += f.weight_decay * e.weight;
                e.first = f.alpha * e.first + (1.0 - f.alpha) * g * g;
                e.second = f.momentum * e.second + g / (std::sqrt(e.first) + f.epsilon);
                e.weight -= rate * e.second;
            }};
}

Rule lion(const kernels::Lion& f) {
    return {"lion", f, [f](State& e, double g) {
                const double c = f.beta1 * e.first + (1.0 - f.beta1) * g;
                e.weight *= 1.0 - static_cast<double>(rate) * f.weight_decay;
                e.weight -= rate * (c > 0 ? 1.0 : c < 0 ? -1.0 : 0.0);
                e.first = f.beta2 * e.first + (1.0 - f.beta2) * g;
            }};
}

std::vector<Rule> rules() {
    return {adagrad({}), adagrad({.epsilon = 1e-3f, .weight_decay = 0.1f}),
            rmsprop({}), rmsprop({.alpha = 0.9f, .epsilon = 1e-3f, .weight_decay = 0.1f, .momentum = 0.9f}),
            lion({}),    lion({.beta1 = 0.8f, .beta2 = 0.95f, .weight_decay = 0.3f})};
}

Sample scalar(double value) {
    Sample sample(Shape{}, DType::f32);
    sample.set(0, value);
    return sample;
}

// All steps on the elements from `begin` to `end` of each case, which are one list.
template <class Device> void run(Device& on, const Rule& rule, std::deque<Case>& cases, std::int64_t begin = 0,
                                 std::int64_t end = -1, double clip = 0.75) {
    const Sample now = scalar(rate), factor = scalar(clip);
    const auto cut = [&](const Sample& sample) {
        const std::int64_t stop = end < 0 ? sample.count() : end;
        return View(static_cast<char*>(on(sample).memory()) + begin * 4, Shape{stop - begin}, DType::f32);
    };
    for (std::size_t step = 0; step < steps; ++step) {
        std::vector<View> gradients, weights, first, second;
        for (Case& test : cases) {
            gradients.push_back(cut(test.gradients[step]));
            weights.push_back(cut(test.weight));
            first.push_back(cut(test.first));
            second.push_back(cut(test.second));
        }
        const kernels::RuleTensors tensors{gradients, weights, first, second};
        std::visit([&](const auto& f) { apply(on.stream(), f, on(now), on(factor), tensors); }, rule.settings);
    }
    on.finish();
}

std::deque<Case> cases_of(std::initializer_list<std::int64_t> sizes) {
    std::deque<Case> cases;
    for (const std::int64_t size : sizes)
        cases.emplace_back(size);
    return cases;
}

} // namespace

template <class Device> class UpdateRules : public testing::Test {};
TYPED_TEST_SUITE(UpdateRules, Devices, DeviceNames);

TYPED_TEST(UpdateRules, FollowTheirFormulas) {
    for (const Rule& rule : rules()) {
        TypeParam on;
        std::deque<Case> cases = cases_of({1, 3, 16, 17, 129, 4096, 9001});
        std::vector<std::vector<double>> expected;
        for (const Case& test : cases) {
            std::vector<double>& weights = expected.emplace_back();
            for (std::int64_t i = 0; i < test.weight.count(); ++i) {
                State element{test.weight[i], 0, 0};
                for (const Sample& gradient : test.gradients)
                    rule.reference(element, 0.75 * gradient[i]);
                weights.push_back(element.weight);
            }
        }
        run(on, rule, cases);
        for (std::size_t i = 0; i < cases.size(); ++i)
            EXPECT_TRUE(close_to(cases[i].weight, expected[i], tolerance(DType::f32, Kind::update))) << rule.name;
    }
}

TYPED_TEST(UpdateRules, SlicesAndListsEqualTheWhole) {
    for (const Rule& rule : rules()) {
        TypeParam on;
        std::deque<Case> whole = cases_of({263});
        run(on, rule, whole);
        for (const std::int64_t middle : {1, 7, 16, 100, 250}) {
            std::deque<Case> parts = cases_of({263});
            run(on, rule, parts, 0, middle);
            run(on, rule, parts, middle, 263);
            whole[0].expect_same(parts[0]);
        }
        std::deque<Case> many; // more than a launch takes, some of them empty
        for (int i = 0; i < 150; ++i)
            many.emplace_back(i % 50 == 49 ? 10000 : i * 7 % 40);
        many.emplace_back(263);
        run(on, rule, many);
        whole[0].expect_same(many.back());
    }
}

TYPED_TEST(UpdateRules, AFactorOfZeroChangesNothing) {
    for (const Rule& rule : rules()) {
        TypeParam on;
        std::deque<Case> cases = cases_of({100}), before = cases_of({100});
        run(on, rule, cases, 0, -1, 0);
        cases[0].expect_same(before[0]);
    }
}

TYPED_TEST(UpdateRules, WrongCountsAreRefused) {
    TypeParam on;
    Case four(4), five(5);
    const Sample now = scalar(rate), factor = scalar(1);
    const View gradient = on(four.gradients[0]), weight = on(four.weight), first = on(four.first),
               wrong = on(five.first);
    const auto expect_refused = [&](ConstView at, const kernels::RuleTensors& tensors) {
        EXPECT_THROW(kernels::adagrad(on.stream(), {}, at, on(factor), tensors), InternalError);
        EXPECT_THROW(kernels::lion(on.stream(), {}, at, on(factor), tensors), InternalError);
        EXPECT_THROW(kernels::rmsprop(on.stream(), {}, at, on(factor), tensors), InternalError);
    };
    expect_refused(wrong, {{&gradient, 1}, {&weight, 1}, {&first, 1}, {}});
    expect_refused(on(now), {{&wrong, 1}, {&weight, 1}, {&first, 1}, {}});
    expect_refused(on(now), {{&gradient, 1}, {&weight, 1}, {}, {}});
    EXPECT_THROW(kernels::rmsprop(on.stream(), {.momentum = 0.9f}, on(now), on(factor),
                                  {{&gradient, 1}, {&weight, 1}, {&first, 1}, {&wrong, 1}}),
                 InternalError);
}

TEST(UpdateRulesOnCpu, TheSameBitsForAnyThreads) {
    for (const Rule& rule : rules())
        for (Sample Case::*result : {&Case::weight, &Case::first, &Case::second})
            expect_same_bits_for_any_threads([&](CpuStream& stream) {
                std::deque<Case> cases = cases_of({100003});
                OnCpu on(stream.threads());
                run(on, rule, cases);
                return cases[0].*result;
            });
}

} // namespace update_rules_test
