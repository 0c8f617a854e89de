// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding against the formula in double, far along the positions; turning back undoes it.
#include "kernels/rotary.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <limits>

using namespace tessera;

namespace rotary_test {
using kernels::Rotary;
using kernels::RotaryPairs;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};
constexpr RotaryPairs layouts[] = {RotaryPairs::interleaved, RotaryPairs::half};

struct Sizes {
    std::int64_t batch, time, heads, width;
};
constexpr Sizes sizes[] = {{1, 1, 1, 2}, {2, 3, 3, 6}, {3, 37, 5, 64}, {1, 9, 2, 36}, {2, 2, 3, 600}, {0, 4, 2, 8}};

struct Expected {
    std::vector<double> values, magnitudes;
};

// As transformers' modeling_rope_utils says it: by wave length.
double scale_of(const kernels::RotaryScaling& scaling, double frequency) {
    const double length = 2 * M_PI / frequency;
    if (length > scaling.trained / scaling.low_turns) return 1 / scaling.factor;
    if (length < scaling.trained / scaling.high_turns) return 1;
    const double smooth = (scaling.trained / length - scaling.low_turns) / (scaling.high_turns - scaling.low_turns);
    return (1 - smooth) / scaling.factor + smooth;
}

// direction: 1 forward, -1 back
Expected turned(const Sample& x, const Sizes& size, const Rotary& which, double direction) {
    Expected expected{x.values(), std::vector<double>(static_cast<std::size_t>(x.count()))};
    for (std::size_t i = 0; i < expected.values.size(); ++i)
        expected.magnitudes[i] = std::abs(expected.values[i]);
    const std::int64_t period = which.period == 0 ? size.heads : which.period;
    const std::int64_t turning = which.heads == 0 ? period : which.heads;
    for (std::int64_t row = 0; row < size.batch * size.time * size.heads; ++row) {
        if (row % size.heads % period >= turning) continue;
        const auto position = static_cast<double>(which.first_position + row / size.heads % size.time);
        for (std::int64_t i = 0; i < size.width / 2; ++i) {
            const double unscaled =
                std::pow(which.theta, static_cast<double>(-2 * i) / static_cast<double>(size.width));
            const double angle = direction * position * unscaled * scale_of(which.scaling, unscaled);
            const bool half = which.pairs == RotaryPairs::half;
            const std::int64_t first = row * size.width + (half ? i : 2 * i);
            const std::int64_t second = first + (half ? size.width / 2 : 1);
            const auto a = static_cast<std::size_t>(first), b = static_cast<std::size_t>(second);
            expected.values[a] = x[first] * std::cos(angle) - x[second] * std::sin(angle);
            expected.values[b] = x[first] * std::sin(angle) + x[second] * std::cos(angle);
            expected.magnitudes[a] = expected.magnitudes[b] = std::abs(x[first]) + std::abs(x[second]);
        }
    }
    return expected;
}

template <class Device> class RotaryEmbedding : public testing::Test {};
TYPED_TEST_SUITE(RotaryEmbedding, Devices, DeviceNames);

} // namespace

TYPED_TEST(RotaryEmbedding, TurnsAsTheFormulaSays) {
    TypeParam on;
    for (const DType type : types)
        for (const RotaryPairs layout : layouts)
            for (const Sizes& size : sizes)
                for (const std::int64_t first : {0, 1000, 999'990, 123'456'789}) {
                    SCOPED_TRACE(testing::Message() << size.time << " x " << size.heads << " x " << size.width
                                                    << " from " << first << " layout " << static_cast<int>(layout));
                    const Rotary which{.theta = first == 1000 ? 500000.0 : 10000.0,
                                       .pairs = layout,
                                       .first_position = first,
                                       .heads = size.heads == 3 ? 2 : 0};
                    const Sample x(Shape{size.batch, size.time, size.heads, size.width}, type, 1), y(x), dy(x);
                    kernels::rotary(on.stream(), which, on(y));
                    kernels::rotary_gradient(on.stream(), which, on(dy));
                    on.finish();
                    const Expected forth = turned(x, size, which, 1), back = turned(x, size, which, -1);
                    EXPECT_TRUE(close_to(y, forth.values, tolerance(type, Kind::function), forth.magnitudes));
                    EXPECT_TRUE(close_to(dy, back.values, tolerance(type, Kind::function), back.magnitudes));
                }
}

// Heads by group, of each of which the last stays; angles that are scaled as Llama 3.1's, and all alike.
TYPED_TEST(RotaryEmbedding, GroupsOfHeadsAndScaledAngles) {
    TypeParam on;
    const double infinite = std::numeric_limits<double>::infinity();
    const kernels::RotaryScaling scalings[] = {{}, {8, 1, 4, 512}, {4, infinite, infinite, 1}};
    for (const RotaryPairs layout : layouts)
        for (const kernels::RotaryScaling& scaling : scalings)
            for (const std::int64_t period : {2, 3}) {
                const Sizes size{2, 19, 6, 64};
                const Rotary which{.theta = 500000,
                                   .pairs = layout,
                                   .first_position = 3000,
                                   .heads = period - 1,
                                   .period = period,
                                   .scaling = scaling};
                const Sample x(Shape{size.batch, size.time, size.heads, size.width}, DType::f32, 1), y(x);
                kernels::rotary(on.stream(), which, on(y));
                on.finish();
                const Expected expected = turned(x, size, which, 1);
                EXPECT_TRUE(close_to(y, expected.values, tolerance(DType::f32, Kind::function), expected.magnitudes))
                    << "factor " << scaling.factor << ", period " << period;
                if (&scaling == scalings) continue;
                Rotary plain = which;
                plain.scaling = {};
                EXPECT_FALSE(close_to(y, turned(x, size, plain, 1).values, tolerance(DType::f32, Kind::function),
                                      expected.magnitudes))
                    << "scaling makes no difference";
            }
}

TYPED_TEST(RotaryEmbedding, TurningBackUndoesIt) {
    TypeParam on;
    for (const RotaryPairs layout : layouts) {
        const Sample x(Shape{2, 50, 3, 64}, DType::f32, 1), y(x);
        const Rotary which{.pairs = layout, .first_position = 1 << 20};
        kernels::rotary(on.stream(), which, on(y));
        kernels::rotary_gradient(on.stream(), which, on(y));
        on.finish();
        EXPECT_TRUE(close_to(y, x.values(), tolerance(DType::f32, Kind::function),
                             std::vector<double>(static_cast<std::size_t>(x.count()), 4)));
    }
}

// A position has the same angles wherever a tensor is cut: the last 20 positions by themselves.
TYPED_TEST(RotaryEmbedding, PositionsComeFromWhereThePartBegins) {
    TypeParam on;
    for (const RotaryPairs layout : layouts) {
        const Sample whole(Shape{1, 50, 3, 20}, DType::f32, 1), part(Shape{1, 20, 3, 20}, DType::f32);
        std::memcpy(part.view().memory(), whole.view().as<float>() + 30 * 60, static_cast<std::size_t>(part.bytes()));
        kernels::rotary(on.stream(), {.pairs = layout, .first_position = 100}, on(whole));
        kernels::rotary(on.stream(), {.pairs = layout, .first_position = 130}, on(part));
        on.finish();
        EXPECT_EQ(
            std::memcmp(part.view().data, whole.view().as<float>() + 30 * 60, static_cast<std::size_t>(part.bytes())),
            0);
    }
}

TYPED_TEST(RotaryEmbedding, ElementsAlignedToThemselvesOnly) {
    TypeParam on;
    for (const DType type : types)
        for (const RotaryPairs layout : layouts) {
            const Sizes size{1, 7, 2, 16};
            const std::int64_t count = 7 * 2 * 16;
            const Sample x(Shape{1 + count}, type, 1), moved(Shape{count}, type), y(x);
            for (std::int64_t i = 0; i < count; ++i)
                const_cast<Sample&>(moved).set(i, x[1 + i]);
            const View all = on(y);
            kernels::rotary(on.stream(), {.pairs = layout, .first_position = 5},
                            View(static_cast<char*>(all.memory()) + bytes_of(type), {1, 7, 2, 16}, type));
            on.finish();
            const Expected expected = turned(moved, size, {.pairs = layout, .first_position = 5}, 1);
            for (std::int64_t i = 0; i < count; ++i)
                const_cast<Sample&>(moved).set(i, y[1 + i]);
            EXPECT_TRUE(close_to(moved, expected.values, tolerance(type, Kind::function), expected.magnitudes));
            EXPECT_EQ(y[0], x[0]);
        }
}

TYPED_TEST(RotaryEmbedding, TheSameBitsInTwoRuns) {
    for (const DType type : types)
        for (const RotaryPairs layout : layouts) {
            const Sample first(Shape{2, 300, 3, 64}, type, 1), second(first);
            for (const Sample* x : {&first, &second}) {
                TypeParam on;
                kernels::rotary(on.stream(), {.pairs = layout}, on(*x));
                on.finish();
            }
            EXPECT_TRUE(first.same_bits(second));
        }
}

TYPED_TEST(RotaryEmbedding, WrongShapesAreRefused) {
    TypeParam on;
    const Sample x(Shape{1, 2, 3, 8}, DType::f32), odd(Shape{1, 2, 3, 7}, DType::f32), flat(Shape{6, 8}, DType::f32),
        number(Shape{1, 2, 3, 8}, DType::i32);
    EXPECT_THROW(kernels::rotary(on.stream(), {}, on(odd)), InternalError);
    EXPECT_THROW(kernels::rotary(on.stream(), {}, on(flat)), InternalError);
    EXPECT_THROW(kernels::rotary(on.stream(), {}, on(number)), InternalError);
    EXPECT_THROW(kernels::rotary(on.stream(), {.theta = 0.5}, on(x)), InternalError);
    EXPECT_THROW(kernels::rotary_gradient(on.stream(), {.heads = 4}, on(x)), InternalError);
}

TEST(RotaryThreads, TheSameBitsForAnyThreads) {
    for (const DType type : types)
        for (const RotaryPairs layout : layouts)
            expect_same_bits_for_any_threads([&](CpuStream& stream) {
                Sample y(Shape{2, 300, 3, 50}, type, 1);
                kernels::rotary(stream, {.pairs = layout, .first_position = 77}, y.view());
                return y;
            });
}

} // namespace rotary_test
