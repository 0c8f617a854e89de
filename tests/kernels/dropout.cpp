// SPDX-License-Identifier: Apache-2.0
// Dropout: its mask is that of the scalar generator, its rate is right, and slices of a tensor equal the whole.
#include "kernels/dropout.hpp"

#include "kernels/error.hpp"
#include "tests/support/device.hpp"
#include "tests/support/poisoned.hpp"

#include <algorithm>
#include <bit>

using namespace tessera;

namespace dropout_test {
using kernels::Dropout;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};

const RandomKey key = random_key(42, "layers.0.dropout");

// Samples as long as 64 elements at most whose multiple the first element is: longer ones are whole vectors of a GPU.
struct Draw {
    Dropout which;
    Sample place;

    explicit Draw(float probability, std::uint64_t step = 3, std::uint64_t first_element = 0)
        : which{probability, key.stream,
                std::min<std::int64_t>(std::int64_t{1} << std::countr_zero(first_element | 64), 64)},
          place(Shape{kernels::draw_words}, DType::i32) {
        kernels::write_draw(place.view(), key.seed, step,
                            first_element / static_cast<std::uint64_t>(which.sample_elements));
    }
};

// The number that decides about an element, from the scalar words.
double uniform_of(std::uint64_t step, std::uint64_t element) {
    const RandomPlace place = random_place(element);
    const auto words = random_words(key, step, place.block);
    return (words[static_cast<std::size_t>(place.word)] >> 8) / 16777216.0;
}

template <class Device> void drop(Device& on, const Draw& draw, const Sample& x, const Sample& y) {
    kernels::dropout(on.stream(), draw.which, on(draw.place), on(x), on(y));
}

template <class Device> class DropoutOn : public testing::Test {};
TYPED_TEST_SUITE(DropoutOn, Devices, DeviceNames);

} // namespace

TYPED_TEST(DropoutOn, KeepsWhatTheGeneratorSays) {
    TypeParam on;
    for (const DType type : types)
        for (const std::uint64_t first : {0, 1, 64, 100})
            for (const std::int64_t size : {0, 1, 15, 63, 64, 65, 129, 1000}) {
                const Draw draw(0.3f, 5, first);
                const Sample x(Shape{size}, type, 1);
                const Sample y(x);
                drop(on, draw, y, y);
                on.finish();
                std::vector<double> expected;
                for (std::int64_t i = 0; i < size; ++i) {
                    const bool kept = uniform_of(5, first + static_cast<std::uint64_t>(i)) >= static_cast<double>(0.3f);
                    expected.push_back(kept ? x[i] / (1 - 0.3) : 0);
                }
                EXPECT_TRUE(close_to(y, expected, tolerance(type, Kind::update))) << first << " + " << size;
            }
}

TYPED_TEST(DropoutOn, TheRateIsTheProbabilityAndStepsDiffer) {
    TypeParam on;
    constexpr std::int64_t size = 1000000;
    Sample x(Shape{size}, DType::f32);
    for (std::int64_t i = 0; i < size; ++i)
        x.set(i, 1);
    const Sample first = poisoned(Shape{size}, DType::f32), second(first);
    const Draw one(0.1f, 1), two(0.1f, 2);
    drop(on, one, x, first);
    drop(on, two, x, second);
    on.finish();
    double dropped = 0, both = 0;
    for (std::int64_t i = 0; i < size; ++i) {
        dropped += first[i] == 0;
        both += first[i] == 0 && second[i] == 0;
    }
    EXPECT_NEAR(dropped / size, 0.1, 0.0015); // five standard deviations
    EXPECT_NEAR(both / size, 0.01, 0.0005);
}

TYPED_TEST(DropoutOn, TheEndsOfTheRange) {
    TypeParam on;
    const Sample x(Shape{100}, DType::f32, 1), y(Shape{100}, DType::f32, 2);
    const Draw none(0), all(1), wrong(1.5f);
    drop(on, none, x, y);
    on.finish();
    EXPECT_TRUE(y.same_bits(x));
    drop(on, all, x, y);
    on.finish();
    EXPECT_EQ(y.values(), std::vector<double>(100));
    EXPECT_THROW(drop(on, wrong, x, y), InternalError);
    EXPECT_THROW(kernels::dropout(on.stream(), all.which, on(x), on(x), on(y)), InternalError); // 100 words of a place
}

TYPED_TEST(DropoutOn, TwoPartsEqualTheWhole) {
    TypeParam on;
    for (const DType type : types)
        for (const std::int64_t cut : {1, 16, 63, 64, 65, 700}) {
            const Sample x(Shape{1001}, type, 1), whole = poisoned(Shape{1001}, type), parts(whole);
            const Draw draw(0.5f, 1, 7), rest(0.5f, 1, 7 + static_cast<std::uint64_t>(cut));
            drop(on, draw, x, whole);
            const auto part = [&](const Sample& sample, std::int64_t begin, std::int64_t end) {
                return View(static_cast<char*>(on(sample).memory()) + begin * bytes_of(type), Shape{end - begin}, type);
            };
            kernels::dropout(on.stream(), draw.which, on(draw.place), part(x, 0, cut), part(parts, 0, cut));
            kernels::dropout(on.stream(), rest.which, on(rest.place), part(x, cut, 1001), part(parts, cut, 1001));
            on.finish();
            EXPECT_TRUE(parts.same_bits(whole)) << cut;
        }
}

// The scalar generator decides in the same way on every device, so the bits are those of the CPU.
TYPED_TEST(DropoutOn, TheBitsAreThoseOfTheCpu) {
    TypeParam on;
    for (const DType type : types)
        for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{8}, std::uint64_t{61},
                                          (std::uint64_t{1} << 40) + 4, ~std::uint64_t{0} / 2})
            for (const std::int64_t size : {1, 7, 200, 20'011}) {
                const Sample x(Shape{size}, type, 1), y = poisoned(Shape{size}, type), expected(y);
                const Draw draw(0.4f, ~std::uint64_t{0} - 1, first);
                drop(on, draw, x, y);
                on.finish();
                CpuStream cpu(2);
                kernels::dropout(cpu, draw.which, draw.place.view(), x.view(), expected.view());
                EXPECT_TRUE(y.same_bits(expected)) << first << " + " << size;
            }
}

TEST(DropoutThreads, TheSameBitsForAnyThreads) {
    for (const DType type : types) {
        const Sample x(Shape{100003}, type, 1);
        expect_same_bits_for_any_threads([&](CpuStream& stream) {
            Sample y(Shape{100003}, type);
            const Draw draw(0.2f, 9, 33);
            kernels::dropout(stream, draw.which, draw.place.view(), x.view(), y.view());
            return y;
        });
    }
}

} // namespace dropout_test
