// SPDX-License-Identifier: Apache-2.0
// Tensors in 8 bits: the same bits as the definition says, as they lie and transposed, whatever the sizes and
// alignment.
#include "kernels/quantize.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <limits>

using namespace tessera;

namespace quantize_test {

template <class Device> class Quantize : public testing::Test {};
TYPED_TEST_SUITE(Quantize, Devices, DeviceNames);

namespace {

View behind(const View& whole, std::int64_t elements, const Shape& shape) {
    return {static_cast<std::byte*>(whole.memory()) + elements * bytes_of(whole.dtype), shape, whole.dtype};
}

enum class Wanted { as_it_lies, transposed, both };

// x of (rows, columns) behind `skipped` elements, and what became of it.
struct Case {
    std::int64_t rows, columns, skipped;
    Sample x, y, transposed, amax, scale;

    Case(std::int64_t row_count, std::int64_t column_count, DType from, DType to, std::int64_t elements = 0)
        : rows(row_count), columns(column_count), skipped(elements),
          x(Shape{elements + rows * columns}, from, 3, -5, 5), y(Shape{elements + rows * columns}, to),
          transposed(Shape{elements + rows * columns}, to), amax(Shape{1}, DType::f32, 1), scale(Shape{1}, DType::f32) {
    }

    void run(auto& on, Wanted wanted = Wanted::both) {
        const View lies = behind(on(y), skipped, {rows, columns}),
                   turned = behind(on(transposed), skipped, {columns, rows});
        kernels::quantize(on.stream(), behind(on(x), skipped, {rows, columns}),
                          {.y = wanted == Wanted::transposed ? View() : lies,
                           .transposed = wanted == Wanted::as_it_lies ? View() : turned,
                           .amax = on(amax),
                           .scale = on(scale)});
        on.finish();
    }

    // Numbers of y that are not those of the definition.
    template <class F> std::int64_t wrong(Wanted wanted) const {
        std::int64_t count = 0;
        const float divided = std::max(static_cast<float>(amax[0]), kernels::smallest_amax);
        for (std::int64_t i = 0; i < rows * columns; ++i) {
            const F expected(static_cast<float>(x[skipped + i]) * (F::largest / divided)), nothing;
            const std::int64_t turned = i % columns * rows + i / columns;
            const auto bits_of = [&](const Sample& sample, std::int64_t at) {
                return sample.view().template as<F>()[skipped + at].bits;
            };
            count += bits_of(y, i) != (wanted == Wanted::transposed ? nothing : expected).bits;
            count += bits_of(transposed, turned) != (wanted == Wanted::as_it_lies ? nothing : expected).bits;
        }
        return count;
    }
    double largest() const {
        double found = 0;
        for (std::int64_t i = 0; i < rows * columns; ++i)
            found = std::max(found, std::abs(x[skipped + i]));
        return found;
    }
};

} // namespace

TYPED_TEST(Quantize, GivesTheDefinedNumbers) {
    TypeParam on;
    const std::int64_t sizes[][2] = {{0, 5}, {5, 0},    {1, 1},    {7, 9},     {8, 8},    {64, 64},
                                     {8, 9}, {65, 130}, {128, 72}, {3, 10000}, {300, 200}};
    for (const auto& [rows, columns] : sizes)
        for (const DType from : {DType::f32, DType::bf16})
            for (const std::int64_t skipped : {0, 1, 8})
                for (const Wanted wanted : {Wanted::both, Wanted::as_it_lies, Wanted::transposed}) {
                    const auto check = [&]<class F>() {
                        Case test(rows, columns, from, dtype_of<F>(), skipped);
                        test.run(on, wanted);
                        EXPECT_EQ(test.amax[0], test.largest());
                        EXPECT_EQ(test.scale[0], static_cast<float>(std::max(test.largest(), 1e-30)) / F::largest);
                        EXPECT_EQ(test.template wrong<F>(wanted), 0)
                            << rows << " x " << columns << " of " << name_of(from) << " behind " << skipped;
                    };
                    check.template operator()<Float8E4M3>();
                    check.template operator()<Float8E5M2>();
                }
}

TYPED_TEST(Quantize, StaysNearWhatIsQuantized) {
    TypeParam on;
    for (const DType to : {DType::f8e4m3, DType::f8e5m2}) {
        Case test(40, 50, DType::f32, to);
        test.run(on);
        const double rounding = to == DType::f8e4m3 ? 1.0 / 16 : 1.0 / 8; // half a unit in the last place
        const double smallest = to == DType::f8e4m3 ? 1.0 / 512 : 1.0 / 65536;
        for (std::int64_t i = 0; i < test.x.count(); ++i)
            EXPECT_NEAR(test.scale[0] * test.y[i], test.x[i],
                        rounding * std::abs(test.x[i]) + test.scale[0] * smallest / 2);
    }
}

// With a largest magnitude that makes the scale 1: every bf16 in between.
TYPED_TEST(Quantize, RoundsEveryBf16) {
    TypeParam on;
    const auto check = [&]<class F>() {
        Case test(256, 256, DType::bf16, dtype_of<F>());
        for (std::int64_t i = 0; i < test.x.count(); ++i) {
            const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(i) << 16);
            test.x.set(i, std::abs(value) <= F::largest ? value : F::largest);
        }
        test.run(on);
        EXPECT_EQ(test.scale[0], 1);
        EXPECT_EQ(test.template wrong<F>(Wanted::both), 0);
    };
    check.template operator()<Float8E4M3>();
    check.template operator()<Float8E5M2>();
}

TYPED_TEST(Quantize, KeepsWhatIsNotFinite) {
    TypeParam on;
    for (const double value : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                               -std::numeric_limits<double>::infinity()})
        for (const std::int64_t at : {0, 777, 1999}) {
            Case test(40, 50, DType::f32, DType::f8e4m3);
            test.x.set(at, value);
            test.run(on);
            EXPECT_FALSE(std::isfinite(test.amax[0]));
            EXPECT_FALSE(std::isfinite(test.scale[0]));
            EXPECT_TRUE(std::isnan(test.y[at]));
            EXPECT_TRUE(std::isnan(test.scale[0] * test.y[0])); // and so is every product
        }
}

TYPED_TEST(Quantize, ZerosAndExtremesHaveAScale) {
    TypeParam on;
    for (const double value : {0.0, 1e-38, 1e-30, 3e38}) {
        Case test(16, 16, DType::f32, DType::f8e5m2);
        for (std::int64_t i = 0; i < test.x.count(); ++i)
            test.x.set(i, i % 2 == 0 ? value : -value);
        test.run(on);
        EXPECT_TRUE(std::isnormal(static_cast<float>(test.scale[0]))) << value;
        EXPECT_EQ(test.wrong<Float8E5M2>(Wanted::both), 0) << value;
        EXPECT_NEAR(test.scale[0] * test.y[1], -value, 1e-6 * value + 1e-36) << value;
    }
}

TYPED_TEST(Quantize, WrongViewsAreRefused) {
    TypeParam on;
    const Sample x(Shape{4, 8}, DType::f32), y(Shape{4, 8}, DType::f8e4m3), other(Shape{8, 4}, DType::f8e5m2);
    const Sample small(Shape{4, 7}, DType::f8e4m3), one(Shape{1}, DType::f32), two(Shape{2}, DType::f32);
    const auto run = [&](const Sample& from, const View& lies, const View& turned, const Sample& scale) {
        kernels::quantize(on.stream(), on(from), {lies, turned, on(one), on(scale)});
    };
    const Sample fine(Shape{1}, DType::f32);
    EXPECT_NO_THROW(run(x, on(y), {}, fine));
    EXPECT_THROW(run(y, on(y), {}, fine), InternalError);
    EXPECT_THROW(run(x, on(x), {}, fine), InternalError);
    EXPECT_THROW(run(x, on(small), {}, fine), InternalError);
    EXPECT_THROW(run(x, on(y), on(other), fine), InternalError);
    EXPECT_THROW(run(x, {}, {}, fine), InternalError);
    EXPECT_THROW(run(x, on(y), {}, two), InternalError);
    on.finish();
}

} // namespace quantize_test
