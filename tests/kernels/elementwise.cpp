// SPDX-License-Identifier: Apache-2.0
// Elementwise kernels against plain double loops, over odd sizes and both element types.
#include "kernels/elementwise.hpp"

#include "kernels/error.hpp"
#include "tests/support/sample.hpp"

#include <cmath>

using namespace tessera;

namespace {

constexpr std::int64_t sizes[] = {0, 1, 15, 16, 17, 129, 1000};
constexpr DType types[] = {DType::f32, DType::bf16};
constexpr Activation activations[] = {Activation::gelu, Activation::gelu_tanh, Activation::relu, Activation::silu};

double reference(Activation kind, double x) {
    switch (kind) {
    case Activation::gelu:
        return x * std::erfc(-x / std::sqrt(2.0)) / 2;
    case Activation::gelu_tanh:
        return x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) / 2;
    case Activation::relu:
        return std::max(x, 0.0);
    case Activation::silu:
        return x / (1 + std::exp(-x));
    }
    return 0;
}

} // namespace

TEST(Elementwise, ActivationsHaveNames) {
    for (const Activation kind : activations)
        EXPECT_EQ(activation_named(name_of(kind)), kind);
    try {
        activation_named("gelo");
        FAIL();
    } catch (const ConfigError& error) {
        EXPECT_STREQ(error.what(), "no activation named 'gelo'; did you mean 'gelu'?");
    }
}

TEST(Elementwise, ActivationsEqualTheirFormulas) {
    CpuStream stream(2);
    for (const Activation kind : activations)
        for (const DType type : types)
            for (const std::int64_t size : sizes) {
                const Sample x(Shape{size}, type, 1, -8, 8);
                const Sample y(Shape{size}, type);
                kernels::activation(stream, kind, x.view(), y.view());
                std::vector<double> expected;
                for (const double value : x.values())
                    expected.push_back(reference(kind, value));
                EXPECT_TRUE(close_to(y, expected, tolerance(type, Kind::function))) << name_of(kind) << " of " << size;
            }
}

TEST(Elementwise, GradientsEqualFiniteDifferences) {
    CpuStream stream(2);
    for (const Activation kind : activations)
        for (const DType type : types)
            for (const std::int64_t size : sizes) {
                const Sample x(Shape{size}, type, 1, -6, 6), dy(Shape{size}, type, 2);
                const Sample dx(dy); // in place
                kernels::activation_gradient(stream, kind, x.view(), dx.view(), dx.view());
                std::vector<double> expected;
                for (std::int64_t i = 0; i < size; ++i) {
                    const auto of = [&](const std::vector<double>& value) { return reference(kind, value[0]); };
                    expected.push_back(dy[i] * slope({x[i]}, 0, of));
                }
                EXPECT_TRUE(close_to(dx, expected, tolerance(type, Kind::finite_difference))) << name_of(kind);
            }
}

TEST(Elementwise, NanStaysNan) {
    CpuStream stream;
    const Sample x(Shape{17}, DType::f32), y(Shape{17}, DType::f32);
    const_cast<Sample&>(x).set(16, std::nan(""));
    for (const Activation kind : activations) {
        kernels::activation(stream, kind, x.view(), y.view());
        EXPECT_TRUE(std::isnan(y[16])) << name_of(kind);
        EXPECT_EQ(y[0], 0) << name_of(kind);
    }
}

TEST(Elementwise, SumsProductsAndFactors) {
    CpuStream stream(3);
    for (const DType type : types)
        for (const std::int64_t size : sizes) {
            const Sample a(Shape{size}, type, 1), b(Shape{size}, type, 2);
            const Sample total(a), product(b), scaled(Shape{size}, type);
            kernels::add(stream, total.view(), b.view(), total.view());
            kernels::multiply(stream, a.view(), product.view(), product.view());
            kernels::scale(stream, a.view(), 0.37f, scaled.view());
            std::vector<double> totals, products, factors;
            for (std::int64_t i = 0; i < size; ++i) {
                totals.push_back(a[i] + b[i]);
                products.push_back(a[i] * b[i]);
                factors.push_back(a[i] * static_cast<double>(0.37f));
            }
            EXPECT_TRUE(close_to(total, totals, tolerance(type, Kind::rounding)));
            EXPECT_TRUE(close_to(product, products, tolerance(type, Kind::rounding)));
            EXPECT_TRUE(close_to(scaled, factors, tolerance(type, Kind::rounding)));
        }
}

TEST(Elementwise, ARowIsAddedToEveryRow) {
    CpuStream stream(3);
    for (const DType type : types)
        for (const DType row_type : types)
            for (const std::int64_t columns : {1, 15, 16, 17, 129})
                for (const std::int64_t rows : {1, 3, 50}) {
                    const Sample x(Shape{rows, columns}, type, 1), row(Shape{columns}, row_type, 2);
                    const Sample y(x);
                    kernels::add_rows(stream, y.view(), row.view(), y.view());
                    std::vector<double> expected;
                    for (std::int64_t i = 0; i < x.count(); ++i)
                        expected.push_back(x[i] + row[i % columns]);
                    EXPECT_TRUE(close_to(y, expected, tolerance(type, Kind::rounding))) << rows << " x " << columns;
                }
}

TEST(Elementwise, TheSameBitsForAnyThreads) {
    constexpr std::int64_t size = 263 * 1000; // several pieces, an odd rest
    for (const DType type : types) {
        const Sample x(Shape{size - 1}, type, 1), other(Shape{size - 1}, type, 2);
        for (const Activation kind : activations) {
            expect_same_bits_for_any_threads([&](CpuStream& stream) {
                Sample y(Shape{size - 1}, type);
                kernels::activation(stream, kind, x.view(), y.view());
                return y;
            });
            expect_same_bits_for_any_threads([&](CpuStream& stream) {
                Sample y(Shape{size - 1}, type);
                kernels::activation_gradient(stream, kind, x.view(), other.view(), y.view());
                return y;
            });
        }
        const Sample rows(Shape{1000, 263}, type, 3), row(Shape{263}, DType::f32, 4);
        expect_same_bits_for_any_threads([&](CpuStream& stream) {
            Sample y(Shape{1000, 263}, type);
            kernels::add_rows(stream, rows.view(), row.view(), y.view());
            kernels::add(stream, y.view(), rows.view(), y.view());
            kernels::multiply(stream, y.view(), rows.view(), y.view());
            kernels::scale(stream, y.view(), 0.7f, y.view());
            return y;
        });
    }
}

TEST(Elementwise, WrongCountsAndTypesAreRefused) {
    CpuStream stream;
    const Sample x(Shape{4}, DType::f32), y(Shape{5}, DType::f32), z(Shape{4}, DType::bf16),
        number(Shape{4}, DType::i32);
    EXPECT_THROW(kernels::activation(stream, Activation::relu, x.view(), y.view()), InternalError);
    EXPECT_THROW(kernels::activation(stream, Activation::relu, x.view(), z.view()), InternalError);
    EXPECT_THROW(kernels::add(stream, x.view(), y.view(), x.view()), InternalError);
    EXPECT_THROW(kernels::add(stream, number.view(), number.view(), number.view()), InternalError);
    EXPECT_THROW(kernels::add_rows(stream, y.view(), x.view(), y.view()), InternalError);
}
