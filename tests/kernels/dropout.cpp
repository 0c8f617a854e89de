// SPDX-License-Identifier: Apache-2.0
// Dropout: its mask is that of the scalar generator, its rate is right, and slices of a tensor equal the whole.
#include "kernels/dropout.hpp"

#include "kernels/error.hpp"
#include "tests/support/sample.hpp"

using namespace tessera;
using kernels::Dropout;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16};

Dropout with(float probability, std::uint64_t step = 3, std::uint64_t first_element = 0) {
    return {probability, random_key(42, "layers.0.dropout"), step, first_element};
}

// The number that decides about an element, from the scalar words.
double uniform_of(const Dropout& which, std::uint64_t element) {
    const RandomPlace place = random_place(element);
    const auto words = random_words(which.key, which.step, place.block);
    return (words[static_cast<std::size_t>(place.word)] >> 8) / 16777216.0;
}

} // namespace

TEST(Dropout, KeepsWhatTheGeneratorSays) {
    CpuStream stream(2);
    for (const DType type : types)
        for (const std::uint64_t first : {0, 1, 64, 100})
            for (const std::int64_t size : {0, 1, 15, 63, 64, 65, 129, 1000}) {
                const Dropout which = with(0.3f, 5, first);
                const Sample x(Shape{size}, type, 1);
                const Sample y(x);
                kernels::dropout(stream, which, y.view(), y.view());
                std::vector<double> expected;
                for (std::int64_t i = 0; i < size; ++i) {
                    const bool kept =
                        uniform_of(which, first + static_cast<std::uint64_t>(i)) >= static_cast<double>(0.3f);
                    expected.push_back(kept ? x[i] / (1 - 0.3) : 0);
                }
                EXPECT_TRUE(close_to(y, expected, tolerance(type, Kind::update))) << first << " + " << size;
            }
}

TEST(Dropout, TheRateIsTheProbabilityAndStepsDiffer) {
    CpuStream stream;
    constexpr std::int64_t size = 1000000;
    Sample x(Shape{size}, DType::f32);
    for (std::int64_t i = 0; i < size; ++i)
        x.set(i, 1);
    const Sample first(Shape{size}, DType::f32), second(Shape{size}, DType::f32);
    kernels::dropout(stream, with(0.1f, 1), x.view(), first.view());
    kernels::dropout(stream, with(0.1f, 2), x.view(), second.view());
    double dropped = 0, both = 0;
    for (std::int64_t i = 0; i < size; ++i) {
        dropped += first[i] == 0;
        both += first[i] == 0 && second[i] == 0;
    }
    EXPECT_NEAR(dropped / size, 0.1, 0.0015); // five standard deviations
    EXPECT_NEAR(both / size, 0.01, 0.0005);
}

TEST(Dropout, TheEndsOfTheRange) {
    CpuStream stream;
    const Sample x(Shape{100}, DType::f32, 1), y(Shape{100}, DType::f32, 2);
    kernels::dropout(stream, with(0), x.view(), y.view());
    EXPECT_TRUE(y.same_bits(x));
    kernels::dropout(stream, with(1), x.view(), y.view());
    EXPECT_EQ(y.values(), std::vector<double>(100));
    EXPECT_THROW(kernels::dropout(stream, with(1.5f), x.view(), y.view()), InternalError);
}

TEST(Dropout, TwoPartsEqualTheWhole) {
    CpuStream stream(2);
    for (const DType type : types)
        for (const std::int64_t cut : {1, 16, 63, 64, 65, 700}) {
            const Sample x(Shape{1001}, type, 1), whole(Shape{1001}, type), parts(Shape{1001}, type);
            kernels::dropout(stream, with(0.5f, 1, 7), x.view(), whole.view());
            const auto part = [&](const Sample& sample, std::int64_t begin, std::int64_t end) {
                return View(static_cast<char*>(sample.view().memory()) + begin * bytes_of(type), Shape{end - begin},
                            type);
            };
            kernels::dropout(stream, with(0.5f, 1, 7), part(x, 0, cut), part(parts, 0, cut));
            kernels::dropout(stream, with(0.5f, 1, 7 + static_cast<std::uint64_t>(cut)), part(x, cut, 1001),
                             part(parts, cut, 1001));
            EXPECT_TRUE(parts.same_bits(whole)) << cut;
        }
}

TEST(Dropout, TheSameBitsForAnyThreads) {
    for (const DType type : types) {
        const Sample x(Shape{100003}, type, 1);
        expect_same_bits_for_any_threads([&](CpuStream& stream) {
            Sample y(Shape{100003}, type);
            kernels::dropout(stream, with(0.2f, 9, 33), x.view(), y.view());
            return y;
        });
    }
}
