// SPDX-License-Identifier: Apache-2.0
// The elementary functions on lanes against the double functions of the standard library, densely.
#include "kernels/cpu/vector_math.hpp"
#include "kernels/cpu/loops.hpp"

#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <vector>

using namespace tessera;

namespace vector_math_test {
using simd::Floats;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
constexpr int samples = 400000;

#define LANES_OF(name, expression)                                                                                     \
    struct name {                                                                                                      \
        TESSERA_INLINE Floats operator()(Floats x) const { return expression; }                                        \
    }
LANES_OF(Exp, simd::exp(x));
LANES_OF(Log, simd::log(x));
LANES_OF(Tanh, simd::tanh(x));
LANES_OF(Erf, simd::erf(x));
LANES_OF(Sqrt, simd::sqrt(x));
LANES_OF(Sigmoid, simd::sigmoid(x));
LANES_OF(Probability, simd::normal(x).probability);
LANES_OF(Density, simd::normal(x).density);
LANES_OF(Sine, simd::sine_cosine_of_turn(x).sine);
LANES_OF(Cosine, simd::sine_cosine_of_turn(x).cosine);
LANES_OF(TotalOfLanes, simd::all(simd::sum(x)));
LANES_OF(MaximumOfLanes, simd::all(simd::max(x)));
#undef LANES_OF

template <class Function> std::vector<float> evaluate(const Function& function, const std::vector<float>& x) {
    std::vector<float> y(x.size());
    kernels::map(CpuStream(1), 1, function, static_cast<std::int64_t>(x.size()), y.data(), x.data());
    return y;
}

std::vector<float> line(double low, double high) {
    std::vector<float> x;
    for (int i = 0; i <= samples; ++i)
        x.push_back(static_cast<float>(low + (high - low) * i / samples));
    return x;
}

std::vector<float> powers(double low, double high) { // evenly spread in the logarithm
    std::vector<float> x;
    for (int i = 0; i <= samples; ++i)
        x.push_back(static_cast<float>(low * std::pow(high / low, static_cast<double>(i) / samples)));
    return x;
}

// The largest |f(x) - reference| / max(|reference|, floor)
template <class Function, class Reference>
double error_of(const Function& function, const std::vector<float>& x, Reference reference, double floor = 0) {
    const std::vector<float> y = evaluate(function, x);
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double expected = reference(static_cast<double>(x[i]));
        const double error = std::abs(y[i] - expected);
        if (error == 0) continue;
        const double relative = error / std::max(std::abs(expected), floor);
        if (!(relative <= worst)) worst = relative; // NaN is kept
    }
    return worst;
}

double probability_of(double x) { return std::erfc(-x / std::sqrt(2.0)) / 2; }

} // namespace

TEST(VectorMath, ElementaryFunctionsAreRightToSomeUnits) {
    EXPECT_LT(error_of(Exp{}, line(-87.33, 88.72), [](double x) { return std::exp(x); }), 1.5e-7);
    EXPECT_LT(error_of(Exp{}, line(-1, 1), [](double x) { return std::exp(x); }), 1.2e-7);
    EXPECT_LT(error_of(
                  Log{}, powers(1.2e-38, 3.4e38), [](double x) { return std::log(x); }, 1e-7),
              1.5e-7);
    EXPECT_LT(error_of(Log{}, line(0.5, 2), [](double x) { return std::log(x); }), 1.5e-7);
    EXPECT_LT(error_of(Tanh{}, line(-10, 10), [](double x) { return std::tanh(x); }), 2e-7);
    EXPECT_LT(error_of(Tanh{}, powers(1e-30, 1), [](double x) { return std::tanh(x); }), 2e-7);
    EXPECT_LT(error_of(Erf{}, line(-5, 5), [](double x) { return std::erf(x); }), 1.5e-7);
    EXPECT_LT(error_of(Erf{}, powers(1e-30, 1), [](double x) { return std::erf(x); }), 1.5e-7);
    EXPECT_LT(error_of(Sqrt{}, powers(1.2e-38, 3e38), [](double x) { return std::sqrt(x); }), 6.1e-8);
    EXPECT_LT(error_of(Sigmoid{}, line(-86, 86), [](double x) { return 1 / (1 + std::exp(-x)); }), 3e-7);
}

TEST(VectorMath, NormalDistribution) {
    EXPECT_LT(error_of(Probability{}, line(-1, 8), probability_of), 5e-7);
    EXPECT_LT(error_of(Probability{}, line(-5, 0), probability_of), 2e-6); // grows with x^2 / 2
    EXPECT_LT(error_of(Probability{}, line(-13, 13), probability_of, 0.1), 5e-7);
    EXPECT_LT(error_of(Density{}, line(-1, 1), [](double x) { return std::exp(-x * x / 2) / std::sqrt(2 * M_PI); }),
              3e-7);
}

TEST(VectorMath, SineAndCosineOfTurns) {
    EXPECT_LT(error_of(
                  Sine{}, line(0, 1), [](double x) { return std::sin(2 * M_PI * x); }, 1),
              1.2e-7);
    EXPECT_LT(error_of(
                  Cosine{}, line(0, 1), [](double x) { return std::cos(2 * M_PI * x); }, 1),
              1.2e-7);
}

TEST(VectorMath, Limits) {
    const std::vector<float> x = {-infinity, infinity, -100, 100, 0, nan_value};
    const std::vector<float> e = evaluate(Exp{}, x), l = evaluate(Log{}, x), t = evaluate(Tanh{}, x),
                             f = evaluate(Erf{}, x);
    EXPECT_EQ(e[0], 0);
    EXPECT_EQ(e[1], infinity);
    EXPECT_EQ(e[2], 0);
    EXPECT_EQ(e[3], infinity);
    EXPECT_EQ(e[4], 1);
    EXPECT_TRUE(std::isnan(l[0]));
    EXPECT_EQ(l[1], infinity);
    EXPECT_EQ(l[4], -infinity);
    for (const auto& y : {t, f}) {
        EXPECT_EQ(y[0], -1);
        EXPECT_EQ(y[1], 1);
        EXPECT_EQ(y[4], 0);
    }
    for (const auto& y : {e, l, t, f, evaluate(Sigmoid{}, x), evaluate(Probability{}, x), evaluate(Density{}, x)})
        EXPECT_TRUE(std::isnan(y[5]));
}

TEST(VectorMath, LanesAreAddedInHalves) {
    std::vector<float> x;
    for (int i = 0; i < simd::lanes; ++i)
        x.push_back(1.0f / static_cast<float>(3 * i + 1));
    std::vector<float> part = x;
    for (std::size_t half = simd::lanes / 2; half > 0; half /= 2)
        for (std::size_t lane = 0; lane < half; ++lane)
            part[lane] += part[lane + half];
    EXPECT_EQ(evaluate(TotalOfLanes{}, x)[0], part[0]);
    std::swap(x[0], x[11]);
    EXPECT_EQ(evaluate(MaximumOfLanes{}, x)[0], 1.0f);
}

// What x is rounded to, in lanes and by the scalar type; and back.
template <class Half> void expect_lanes_of(std::vector<float> x) {
    std::vector<Half> y(x.size());
    struct Same {
        TESSERA_INLINE Floats operator()(Floats value) const { return value; }
    };
    const auto count = static_cast<std::int64_t>(x.size());
    kernels::map(CpuStream(1), 1, Same{}, count, y.data(), x.data());
    for (std::size_t i = 0; i < x.size(); ++i)
        ASSERT_EQ(y[i].bits, Half(x[i]).bits) << std::bit_cast<std::uint32_t>(x[i]);
    kernels::map(CpuStream(1), 1, Same{}, count, x.data(), y.data());
    for (std::size_t i = 0; i < x.size(); ++i)
        ASSERT_EQ(std::bit_cast<std::uint32_t>(x[i]), std::bit_cast<std::uint32_t>(static_cast<float>(y[i])));
}

TEST(VectorMath, HalfLanesRoundAsTheScalarTypes) {
    std::vector<float> x;
    for (std::uint32_t bits = 0; bits < 0xfff00000u; bits += 0x1357u)
        x.push_back(std::bit_cast<float>(bits));
    x.push_back(std::bit_cast<float>(0x7f800001u)); // a NaN whose upper half alone would be infinite
    expect_lanes_of<BFloat16>(x);
    expect_lanes_of<Float16>(x);
}

} // namespace vector_math_test
