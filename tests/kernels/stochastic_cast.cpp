// SPDX-License-Identifier: Apache-2.0
// Rounding by chance: each element goes where the scalar generator says, the mean is the number itself, and the bits
// are the same for slices, threads and devices.
#include "kernels/stochastic_cast.hpp"

#include "kernels/random.hpp"
#include "tests/support/device.hpp"
#include "tests/support/poisoned.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

using namespace tessera;

namespace stochastic_cast_test {
using kernels::StochasticCast;

namespace {

const RandomKey key = random_key(42, "layers.0.up.weight");

StochasticCast from(std::uint64_t first_element) { return {key.stream, first_element}; }

Sample draw_of(std::uint64_t step) {
    Sample draw(Shape{kernels::draw_words}, DType::i32);
    kernels::write_draw(draw.view(), key.seed, step, 0);
    return draw;
}

std::uint16_t expected_bits(std::uint64_t step, float value, std::uint64_t i) {
    const RandomPlace place = random_place(i);
    const auto words = random_words(key, step, place.block);
    if (!std::isfinite(value)) return BFloat16(value).bits;
    const std::uint32_t chance = words[static_cast<std::size_t>(place.word)] >> 16;
    return static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(value) + chance) >> 16);
}

template <class Device> class StochasticCastOn : public testing::Test {};
TYPED_TEST_SUITE(StochasticCastOn, Devices, DeviceNames);

} // namespace

TYPED_TEST(StochasticCastOn, GoesWhereTheGeneratorSays) {
    TypeParam on;
    for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{4}, std::uint64_t{61}, std::uint64_t{1} << 40})
        for (const std::int64_t size : {0, 1, 15, 63, 64, 65, 129, 5000}) {
            Sample x(Shape{size}, DType::f32, 1);
            const double special[] = {INFINITY, -INFINITY, NAN, 0.0, -0.0, 1e-40, 1e38};
            for (std::int64_t i = 0; i < std::min<std::int64_t>(size, 7); ++i)
                x.set((i * 11) % size, special[i]);
            const Sample y = poisoned(Shape{size}, DType::bf16);
            const Sample draw = draw_of(5);
            kernels::stochastic_cast(on.stream(), from(first), on(draw), on(x), on(y));
            on.finish();
            for (std::int64_t i = 0; i < size; ++i) {
                const float value = x.view().template as<float>()[i];
                const std::uint16_t bits = y.view().template as<BFloat16>()[i].bits;
                if (std::isnan(value)) // each device has its own
                    ASSERT_TRUE(std::isnan(y[i])) << first << " + " << i << " of " << size;
                else
                    ASSERT_EQ(bits, expected_bits(5, value, first + static_cast<std::uint64_t>(i)))
                        << first << " + " << i << " of " << size;
            }
        }
}

// 1 + 3/10 of the way to the next number: three of ten go up; in another step, others do.
TYPED_TEST(StochasticCastOn, TheMeanIsTheNumber) {
    TypeParam on;
    constexpr std::int64_t size = 200000;
    constexpr double unit = 1.0 / 128;
    Sample x(Shape{size}, DType::f32);
    for (std::int64_t i = 0; i < size; ++i)
        x.set(i, i % 2 == 0 ? 1 + 0.3 * unit : -1 - 0.3 * unit);
    const Sample first = poisoned(Shape{size}, DType::bf16), second(first);
    const Sample one = draw_of(1), two = draw_of(2);
    kernels::stochastic_cast(on.stream(), from(0), on(one), on(x), on(first));
    kernels::stochastic_cast(on.stream(), from(0), on(two), on(x), on(second));
    on.finish();
    double ups = 0, both = 0;
    for (std::int64_t i = 0; i < size; ++i) {
        const auto up = [&](const Sample& y) { return std::abs(y[i]) == 1 + unit; };
        ASSERT_TRUE(up(first) || std::abs(first[i]) == 1) << first[i];
        ASSERT_EQ(first[i] > 0, x[i] > 0);
        ups += up(first);
        both += up(first) && up(second);
    }
    EXPECT_NEAR(ups / size, 0.3, 0.005); // five standard deviations
    EXPECT_NEAR(both / size, 0.09, 0.0035);
}

TYPED_TEST(StochasticCastOn, WhatBf16HoldsStays) {
    TypeParam on;
    Sample x(Shape{0x8000}, DType::f32);
    for (std::uint32_t code = 0; code < 0x8000; ++code)
        x.view().template as<float>()[code] = std::bit_cast<float>(code << 17); // every second number
    const Sample y = poisoned(Shape{0x8000}, DType::bf16);
    const Sample draw = draw_of(3);
    kernels::stochastic_cast(on.stream(), from(0), on(draw), on(x), on(y));
    on.finish();
    for (std::int64_t i = 0; i < x.count(); ++i)
        if (!std::isnan(x[i]))
            ASSERT_EQ(y[i], x[i]);
        else
            ASSERT_TRUE(std::isnan(y[i]));
}

TYPED_TEST(StochasticCastOn, TwoPartsEqualTheWhole) {
    TypeParam on;
    for (const std::int64_t cut : {1, 16, 63, 64, 65, 700}) {
        const Sample x(Shape{1001}, DType::f32, 1), whole = poisoned(Shape{1001}, DType::bf16), parts(whole);
        const Sample draw = draw_of(1);
        kernels::stochastic_cast(on.stream(), from(7), on(draw), on(x), on(whole));
        const auto part = [&](const Sample& sample, std::int64_t begin, std::int64_t end) {
            return View(static_cast<char*>(on(sample).memory()) + begin * bytes_of(sample.dtype()), Shape{end - begin},
                        sample.dtype());
        };
        kernels::stochastic_cast(on.stream(), from(7), on(draw), part(x, 0, cut), part(parts, 0, cut));
        kernels::stochastic_cast(on.stream(), from(7 + static_cast<std::uint64_t>(cut)), on(draw), part(x, cut, 1001),
                                 part(parts, cut, 1001));
        on.finish();
        EXPECT_TRUE(parts.same_bits(whole)) << cut;
    }
}

TEST(StochasticCastThreads, TheSameBitsForAnyThreads) {
    const Sample x(Shape{100003}, DType::f32, 1), draw = draw_of(9);
    expect_same_bits_for_any_threads([&](CpuStream& stream) {
        Sample y(Shape{100003}, DType::bf16);
        kernels::stochastic_cast(stream, from(33), draw.view(), x.view(), y.view());
        return y;
    });
}

} // namespace stochastic_cast_test
