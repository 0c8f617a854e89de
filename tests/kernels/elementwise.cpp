// SPDX-License-Identifier: Apache-2.0
// Elementwise kernels against plain double loops, over odd sizes and both element types.
#include "kernels/elementwise.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"
#include "tests/support/poisoned.hpp"

#include <cmath>

using namespace tessera;

namespace elementwise_test {

namespace {

constexpr std::int64_t sizes[] = {0, 1, 15, 16, 17, 129, 1000, 5003};
constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};
constexpr Activation activations[] = {Activation::gelu, Activation::gelu_tanh, Activation::relu, Activation::silu,
                                      Activation::tanh};

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
    case Activation::tanh:
        return std::tanh(x);
    }
    return 0;
}

// The same elements, where no vector of them is aligned.
View shifted(const View& all) {
    return {static_cast<char*>(all.memory()) + bytes_of(all.dtype), Shape{all.count() - 1}, all.dtype};
}

template <class Device> class Elementwise : public testing::Test {};
TYPED_TEST_SUITE(Elementwise, Devices, DeviceNames);

} // namespace

TEST(Activations, HaveNames) {
    for (const Activation kind : activations)
        EXPECT_EQ(activation_named(name_of(kind)), kind);
    try {
        activation_named("gelo");
        FAIL();
    } catch (const ConfigError& error) {
        EXPECT_STREQ(error.what(), "no activation named 'gelo'; did you mean 'gelu'?");
    }
}

TYPED_TEST(Elementwise, ActivationsEqualTheirFormulas) {
    TypeParam on;
    for (const Activation kind : activations)
        for (const DType type : types)
            for (const std::int64_t size : sizes) {
                const Sample x(Shape{size}, type, 1, -8, 8);
                const Sample y = poisoned(Shape{size}, type);
                kernels::activation(on.stream(), kind, on(x), on(y));
                on.finish();
                std::vector<double> expected;
                for (const double value : x.values())
                    expected.push_back(reference(kind, value));
                EXPECT_TRUE(close_to(y, expected, tolerance(type, Kind::function))) << name_of(kind) << " of " << size;
            }
}

TYPED_TEST(Elementwise, GradientsEqualFiniteDifferences) {
    TypeParam on;
    for (const Activation kind : activations)
        for (const DType type : types)
            for (const std::int64_t size : sizes) {
                const Sample x(Shape{size}, type, 1, -6, 6), dy(Shape{size}, type, 2);
                const Sample dx(dy); // in place
                kernels::activation_gradient(on.stream(), kind, on(x), on(dx), on(dx));
                on.finish();
                std::vector<double> expected;
                for (std::int64_t i = 0; i < size; ++i) {
                    const auto of = [&](const std::vector<double>& value) { return reference(kind, value[0]); };
                    expected.push_back(dy[i] * slope({x[i]}, 0, of));
                }
                EXPECT_TRUE(close_to(dx, expected, tolerance(type, Kind::finite_difference))) << name_of(kind);
            }
}

TYPED_TEST(Elementwise, GatesAndTheirGradients) {
    TypeParam on;
    for (const Activation kind : activations)
        for (const DType type : types)
            for (const std::int64_t size : sizes) {
                const Sample gate(Shape{size}, type, 1, -6, 6), x(Shape{size}, type, 2), dy(Shape{size}, type, 3);
                const Sample y = poisoned(Shape{size}, type), dgate = poisoned(Shape{size}, type);
                const Sample dx(dy); // in place
                kernels::gate(on.stream(), kind, on(gate), on(x), on(y));
                kernels::gate_gradient(on.stream(), kind, on(gate), on(x), on(dx), on(dgate), on(dx));
                on.finish();
                std::vector<double> forth, of_gate, of_x;
                for (std::int64_t i = 0; i < size; ++i) {
                    const auto of = [&](const std::vector<double>& value) { return reference(kind, value[0]); };
                    forth.push_back(reference(kind, gate[i]) * x[i]);
                    of_gate.push_back(dy[i] * x[i] * slope({gate[i]}, 0, of));
                    of_x.push_back(dy[i] * reference(kind, gate[i]));
                }
                EXPECT_TRUE(close_to(y, forth, tolerance(type, Kind::function))) << name_of(kind) << " of " << size;
                EXPECT_TRUE(close_to(dx, of_x, tolerance(type, Kind::function))) << name_of(kind) << " of " << size;
                EXPECT_TRUE(close_to(dgate, of_gate, tolerance(type, Kind::finite_difference))) << name_of(kind);
            }
}

TYPED_TEST(Elementwise, NanStaysNan) {
    TypeParam on;
    Sample x(Shape{17}, DType::f32), y(Shape{17}, DType::f32);
    x.set(16, std::nan(""));
    for (const Activation kind : activations) {
        kernels::activation(on.stream(), kind, on(x), on(y));
        on.finish();
        EXPECT_TRUE(std::isnan(y[16])) << name_of(kind);
        EXPECT_EQ(y[0], 0) << name_of(kind);
    }
}

TYPED_TEST(Elementwise, SumsProductsAndFactors) {
    TypeParam on;
    for (const DType type : types)
        for (const std::int64_t size : sizes) {
            const Sample a(Shape{size}, type, 1), b(Shape{size}, type, 2);
            const Sample total(a), product(b), scaled = poisoned(Shape{size}, type);
            kernels::add(on.stream(), on(total), on(b), on(total));
            kernels::multiply(on.stream(), on(a), on(product), on(product));
            kernels::scale(on.stream(), on(a), 0.37f, on(scaled));
            on.finish();
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

TYPED_TEST(Elementwise, ARowIsAddedToEveryRow) {
    TypeParam on;
    for (const DType type : types)
        for (const DType row_type : types)
            for (const std::int64_t columns : {1, 4, 15, 16, 17, 129, 768})
                for (const std::int64_t rows : {1, 3, 50}) {
                    const Sample x(Shape{rows, columns}, type, 1), row(Shape{columns}, row_type, 2);
                    const Sample y(x);
                    kernels::add_rows(on.stream(), on(y), on(row), on(y));
                    on.finish();
                    std::vector<double> expected;
                    for (std::int64_t i = 0; i < x.count(); ++i)
                        expected.push_back(x[i] + row[i % columns]);
                    EXPECT_TRUE(close_to(y, expected, tolerance(type, Kind::rounding))) << rows << " x " << columns;
                }
}

// Parts of tensors that begin at their second element.
TYPED_TEST(Elementwise, ElementsAlignedToThemselvesOnly) {
    TypeParam on;
    for (const DType type : types) {
        constexpr std::int64_t size = 2000;
        const Sample a(Shape{size + 1}, type, 1), b(Shape{size + 1}, type, 2), row(Shape{41}, type, 3);
        const Sample total = poisoned(Shape{size + 1}, type), rows = poisoned(Shape{size + 1}, type);
        kernels::add(on.stream(), shifted(on(a)), shifted(on(b)), shifted(on(total)));
        kernels::add_rows(on.stream(), shifted(on(a)), shifted(on(row)), shifted(on(rows)));
        on.finish();
        EXPECT_TRUE(std::isnan(total[0]) && std::isnan(rows[0]));
        for (std::int64_t i = 1; i <= size; ++i) {
            const Tolerance allowed = tolerance(type, Kind::rounding);
            const double sum = a[i] + b[i], with_row = a[i] + row[1 + (i - 1) % 40];
            ASSERT_NEAR(total[i], sum, allowed.relative * std::abs(sum) + allowed.absolute) << i;
            ASSERT_NEAR(rows[i], with_row, allowed.relative * std::abs(with_row) + allowed.absolute) << i;
        }
    }
}

TYPED_TEST(Elementwise, TheSameBitsInTwoRuns) {
    constexpr std::int64_t size = 300'001;
    for (const DType type : types) {
        const Sample x(Shape{size}, type, 1, -8, 8), first = poisoned(Shape{size}, type), second(first);
        for (const Sample* y : {&first, &second}) {
            TypeParam on;
            kernels::activation(on.stream(), Activation::gelu, on(x), on(*y));
            kernels::activation_gradient(on.stream(), Activation::silu, on(x), on(*y), on(*y));
            on.finish();
        }
        EXPECT_TRUE(first.same_bits(second));
        EXPECT_FALSE(std::isnan(first[size - 1]) || std::isnan(first[0]));
    }
}

TYPED_TEST(Elementwise, WrongCountsAndTypesAreRefused) {
    TypeParam on;
    const Sample x(Shape{4}, DType::f32), y(Shape{5}, DType::f32), z(Shape{4}, DType::bf16),
        number(Shape{4}, DType::i32);
    EXPECT_THROW(kernels::activation(on.stream(), Activation::relu, on(x), on(y)), InternalError);
    EXPECT_THROW(kernels::activation(on.stream(), Activation::relu, on(x), on(z)), InternalError);
    EXPECT_THROW(kernels::add(on.stream(), on(x), on(y), on(x)), InternalError);
    EXPECT_THROW(kernels::add(on.stream(), on(number), on(number), on(number)), InternalError);
    EXPECT_THROW(kernels::add_rows(on.stream(), on(y), on(x), on(y)), InternalError);
}

TEST(ElementwiseThreads, TheSameBitsForAnyThreads) {
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

} // namespace elementwise_test
