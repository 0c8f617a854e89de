// SPDX-License-Identifier: Apache-2.0
// Pooling and its gradients against plain loops in double.
#include "kernels/pooling.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <limits>

using namespace tessera;

namespace pooling_test {

namespace {

constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

std::vector<Pooling> cases() {
    const WindowDim two{.size = 2, .stride = 2}, three{.size = 3, .stride = 2, .before = 1, .after = 1};
    return {
        {2, 6, 8, 16, {two, two}},
        {2, 7, 5, 19, {three, three}},
        {1, 9, 8, 3, {{3, 1, 1, 0, 2}, {2, 3, 1, 1, 0}}},
        {1, 9, 10, 33, {{3, 2, 2, 2, 1}, {2, 1, 3, 0, 3}}},
        {3, 5, 4, 17, {{.size = 5}, {.size = 4}}},                          // global
        {1, 2, 3, 5, {{2, 1, 1, 3, 2}, {2, 1, 2, 0, 4}}},                   // windows in padding alone
        {1, 7, 7, 2, {{.size = 2, .stride = 4}, {.stride = 3}}},            // elements in no window
        {1, 9, 8, 18, {{.size = 7, .before = 2, .after = 2}, {.size = 6}}}, // many outputs look at a pixel
        {0, 7, 7, 2, {two, two}},
    };
}

Shape image(const Pooling& c) { return {c.batch, c.height, c.width, c.channels}; }
Shape output(const Pooling& c) { return {c.batch, c.out_height(), c.out_width(), c.channels}; }

// Calls visit(place in x, tap) for what output y covers.
template <class Visit> void for_covered(const Pooling& c, std::int64_t y, const Visit& visit) {
    const std::int64_t channel = y % c.channels, q = y / c.channels % c.out_width();
    const std::int64_t p = y / c.channels / c.out_width() % c.out_height();
    const std::int64_t n = y / c.channels / c.out_width() / c.out_height();
    for (std::int64_t tap = 0; tap < c.window.taps(); ++tap) {
        const auto& [height, width] = c.window;
        const std::int64_t row = p * height.stride - height.before + tap / width.size * height.dilation;
        const std::int64_t column = q * width.stride - width.before + tap % width.size * width.dilation;
        if (row < 0 || row >= c.height || column < 0 || column >= c.width) continue;
        visit(((n * c.height + row) * c.width + column) * c.channels + channel, tap);
    }
}

double& at(std::vector<double>& values, std::int64_t i) { return values[static_cast<std::size_t>(i)]; }

void poison(const Sample& sample) {
    for (std::int64_t i = 0; i < sample.count(); ++i)
        const_cast<Sample&>(sample).set(i, sample.dtype() == DType::i32 ? 77 : not_a_number);
}

// Few different numbers: ties in most windows.
Sample with_ties(const Shape& shape, DType type) {
    Sample x(shape, type, 1, -3, 3);
    for (std::int64_t i = 0; i < x.count(); ++i)
        x.set(i, std::round(x[i]));
    return x;
}

double share(const Pooling& c, bool count_padding, std::int64_t y) {
    std::int64_t covered = 0;
    for_covered(c, y, [&](auto, auto) { ++covered; });
    return covered == 0 ? 0 : 1.0 / static_cast<double>(count_padding ? c.window.taps() : covered);
}

} // namespace

template <class Device> class Poolings : public testing::Test {};
TYPED_TEST_SUITE(Poolings, Devices, DeviceNames);

TYPED_TEST(Poolings, TheFirstOfTheLargestAndItsGradient) {
    for (const Pooling& c : cases())
        for (const DType type : types) {
            const Sample x = with_ties(image(c), type), y(output(c), type), taps(output(c), DType::i32);
            const Sample dy(output(c), type, 2), dx(image(c), type);
            for (const Sample* sample : {&y, &taps, &dx})
                poison(*sample);
            TypeParam on;
            kernels::max_pool(on.stream(), c, on(x), on(y), on(taps));
            kernels::max_pool_gradient(on.stream(), c, on(dy), on(taps), on(dx));
            on.finish();
            std::vector<double> gradient(static_cast<std::size_t>(dx.count())), magnitudes(gradient);
            for (std::int64_t i = 0; i < y.count(); ++i) {
                double best = -infinity;
                std::int64_t found = -1, place = -1;
                for_covered(c, i, [&](auto from, auto tap) {
                    if (x[from] <= best) return;
                    best = x[from];
                    found = tap;
                    place = from;
                });
                ASSERT_EQ(y[i], best) << image(c).text() << " " << i;
                ASSERT_EQ(taps[i], static_cast<double>(found)) << image(c).text() << " " << i;
                if (place < 0) continue;
                at(gradient, place) += dy[i];
                at(magnitudes, place) += std::abs(dy[i]);
            }
            EXPECT_TRUE(close_to(dx, gradient, tolerance(type, Kind::sum), magnitudes)) << image(c).text();
        }
}

TYPED_TEST(Poolings, NotANumberIsTheLargestAndMinusInfinityIsFound) {
    const Pooling c{1, 4, 2, 1, {{.size = 4}, {.size = 1}}};
    Sample x(image(c), DType::f32, 3);
    const Sample y(output(c), DType::f32), taps(output(c), DType::i32);
    x.set(4, not_a_number); // the third of the first column
    for (std::int64_t i = 1; i < 8; i += 2)
        x.set(i, -infinity);
    TypeParam on;
    kernels::max_pool(on.stream(), c, on(x), on(y), on(taps));
    on.finish();
    EXPECT_TRUE(std::isnan(y[0]));
    EXPECT_EQ(taps[0], 2);
    EXPECT_EQ(y[1], -infinity);
    EXPECT_EQ(taps[1], 0);
}

TYPED_TEST(Poolings, TheMeanAndItsGradient) {
    for (const Pooling& c : cases())
        for (const DType type : types)
            for (const bool count_padding : {false, true}) {
                const Sample x(image(c), type, 1), y(output(c), type), dy(output(c), type, 2), dx(image(c), type);
                for (const Sample* sample : {&y, &dx})
                    poison(*sample);
                TypeParam on;
                kernels::average_pool(on.stream(), c, count_padding, on(x), on(y));
                kernels::average_pool_gradient(on.stream(), c, count_padding, on(dy), on(dx));
                on.finish();
                std::vector<double> mean(static_cast<std::size_t>(y.count())), mean_magnitudes(mean);
                std::vector<double> gradient(static_cast<std::size_t>(dx.count())), magnitudes(gradient);
                for (std::int64_t i = 0; i < y.count(); ++i) {
                    const double part = share(c, count_padding, i);
                    for_covered(c, i, [&](auto from, auto) {
                        at(mean, i) += x[from] * part;
                        at(mean_magnitudes, i) += std::abs(x[from] * part);
                        at(gradient, from) += dy[i] * part;
                        at(magnitudes, from) += std::abs(dy[i] * part);
                    });
                }
                EXPECT_TRUE(close_to(y, mean, tolerance(type, Kind::sum), mean_magnitudes)) << image(c).text();
                EXPECT_TRUE(close_to(dx, gradient, tolerance(type, Kind::sum), magnitudes)) << image(c).text();
            }
}

TYPED_TEST(Poolings, WrongSizesAreRefused) {
    TypeParam on;
    const Pooling c{1, 4, 4, 3, {{.size = 2}, {.size = 2}}};
    Pooling wrong = c;
    wrong.window.width.stride = 0;
    const Sample x(image(c), DType::f32), y(output(c), DType::f32), half(output(c), DType::bf16);
    const Sample taps(output(c), DType::i32), few(Shape{3}, DType::i32);
    EXPECT_THROW(kernels::max_pool(on.stream(), wrong, on(x), on(y), on(taps)), InternalError);
    EXPECT_THROW(kernels::max_pool(on.stream(), c, on(y), on(y), on(taps)), InternalError);
    EXPECT_THROW(kernels::max_pool(on.stream(), c, on(x), on(half), on(taps)), InternalError);
    EXPECT_THROW(kernels::max_pool(on.stream(), c, on(x), on(y), on(few)), InternalError);
    EXPECT_THROW(kernels::max_pool_gradient(on.stream(), c, on(y), on(few), on(x)), InternalError);
    EXPECT_THROW(kernels::average_pool(on.stream(), c, true, on(y), on(y)), InternalError);
    EXPECT_THROW(kernels::average_pool_gradient(on.stream(), c, true, on(x), on(x)), InternalError);
}

TEST(PoolingsOnCpu, TheSameBitsForAnyThreads) {
    const Pooling c{3, 41, 37, 35, {{3, 2, 1, 1, 1}, {3, 1, 1, 1, 1}}};
    const Sample x = with_ties(image(c), DType::f32), dy(output(c), DType::f32, 2);
    expect_same_bits_for_any_threads([&](CpuStream& stream) {
        const Sample y(output(c), DType::f32), taps(output(c), DType::i32), dx(image(c), DType::f32);
        kernels::max_pool(stream, c, x.view(), y.view(), taps.view());
        kernels::max_pool_gradient(stream, c, dy.view(), taps.view(), dx.view());
        return dx;
    });
    expect_same_bits_for_any_threads([&](CpuStream& stream) {
        const Sample y(output(c), DType::f32), dx(image(c), DType::f32);
        kernels::average_pool(stream, c, false, x.view(), y.view());
        kernels::average_pool_gradient(stream, c, false, y.view(), dx.view());
        return dx;
    });
}

} // namespace pooling_test
