// SPDX-License-Identifier: Apache-2.0
// The generator against the published vector and Random123's own code; fills against the scalar definition and by
// moments.
#include "kernels/random.hpp"

#include "tests/support/sample.hpp"

#include <cmath>
#include <Random123/philox.h>

using namespace tessera;

namespace random_test {

namespace {

constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};

View part(const Sample& sample, std::int64_t begin, std::int64_t end) {
    return {static_cast<char*>(sample.view().memory()) + begin * bytes_of(sample.dtype()), Shape{end - begin},
            sample.dtype()};
}

} // namespace

TEST(Random, ThePublishedVector) {
    const std::array<std::uint32_t, 4> expected = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
    EXPECT_EQ(random_words({}, 0, 0), expected);
}

TEST(Random, WordsEqualRandom123) {
    for (std::uint64_t i = 0; i < 1000; ++i) {
        const std::uint64_t stream = i * 0x9e3779b97f4a7c15ull, high = i * i << 20, low = i << 30 | i;
        const r123::Philox4x32 philox;
        const auto expected = philox({{static_cast<std::uint32_t>(low), static_cast<std::uint32_t>(low >> 32),
                                       static_cast<std::uint32_t>(high), static_cast<std::uint32_t>(high >> 32)}},
                                     {{static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)}});
        const auto words = random_words({0, stream}, high, low); // seed 0: the key is the stream
        for (std::size_t w = 0; w < 4; ++w)
            ASSERT_EQ(words[w], expected[w]) << i;
    }
}

TEST(Random, KeysDifferBySeedAndName) {
    EXPECT_EQ(random_key(7, "").stream, 0xcbf29ce484222325ull); // FNV-1a's own vectors
    EXPECT_EQ(random_key(7, "foobar").stream, 0x85944171f73967e8ull);
    EXPECT_NE(random_words(random_key(1, "a"), 0, 0), random_words(random_key(2, "a"), 0, 0));
    EXPECT_NE(random_words(random_key(1, "a"), 0, 0), random_words(random_key(1, "b"), 0, 0));
    EXPECT_NE(random_words(random_key(1, "a"), 0, 0), random_words(random_key(1, "a"), 1, 0));
}

TEST(Random, NumbersBelowABoundAreEven) {
    std::vector<int> seen(10);
    for (std::uint64_t i = 0; i < 100000; ++i) {
        const std::uint64_t value = random_below(random_key(1, "order"), i, 10);
        ASSERT_LT(value, 10u);
        ++seen[value];
    }
    for (const int count : seen)
        EXPECT_NEAR(count, 10000, 500); // five standard deviations
    EXPECT_EQ(random_below({}, 0, 1), 0u);
    EXPECT_GT(random_below(random_key(1, "order"), 3, ~std::uint64_t{0}), std::uint64_t{1} << 40);
}

TEST(Random, AUniformFillIsTheScalarDefinition) {
    const RandomKey key = random_key(3, "weight");
    for (const DType type : types)
        for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{5}, std::uint64_t{1} << 40}) {
            const Sample y(Shape{333}, type);
            fill_uniform(y.view(), key, -0.5f, 1.5f, first);
            std::vector<double> expected;
            for (std::uint64_t i = 0; i < 333; ++i)
                expected.push_back(-0.5 + 2.0 * static_cast<double>(random_uniform(key, first + i)));
            EXPECT_TRUE(close_to(y, expected, tolerance(type, Kind::random)));
        }
}

TEST(Random, ANormalFillIsBoxAndMullersFormula) {
    const RandomKey key = random_key(3, "weight");
    for (const DType type : types) {
        const Sample y(Shape{3000}, type);
        fill_normal(y.view(), key, 0.25f, 2.0f, 128);
        std::vector<double> expected;
        for (std::uint64_t i = 128; i < 3128; ++i) {
            const RandomPlace place = random_place(i);
            const auto words = random_words(key, 0, place.block);
            const std::size_t pair = static_cast<std::size_t>(place.word) / 2 * 2;
            const double radius = std::sqrt(-2 * std::log((words[pair] >> 1) * 0x1p-31 + 0x1p-32));
            const double angle = 2 * M_PI * ((words[pair + 1] >> 8) * 0x1p-24);
            expected.push_back(0.25 + 2 * radius * (place.word % 2 == 0 ? std::cos(angle) : std::sin(angle)));
        }
        EXPECT_TRUE(close_to(y, expected, tolerance(type, Kind::random)));
    }
}

TEST(Random, NormalNumbersHaveTheirMoments) {
    constexpr std::int64_t size = 1000000;
    const Sample y(Shape{size}, DType::f32);
    fill_normal(y.view(), random_key(1, "moments"), 0, 1, 0);
    double mean = 0, square = 0, fourth = 0, neighbours = 0;
    for (std::int64_t i = 0; i < size; ++i) {
        mean += y[i] / size;
        square += y[i] * y[i] / size;
        fourth += y[i] * y[i] * y[i] * y[i] / size;
        neighbours += y[i] * y[(i + 16) % size] / size; // the other half of the pair
    }
    EXPECT_NEAR(mean, 0, 0.005); // five standard deviations each
    EXPECT_NEAR(square, 1, 0.007);
    EXPECT_NEAR(fourth, 3, 0.05);
    EXPECT_NEAR(neighbours, 0, 0.005);
}

TEST(Random, TwoPartsEqualTheWhole) {
    const RandomKey key = random_key(9, "split");
    for (const DType type : types)
        for (const std::int64_t cut : {1, 15, 16, 63, 64, 65, 300}) {
            const Sample whole(Shape{333}, type), parts(Shape{333}, type);
            fill_normal(whole.view(), key, 1, 0.5f, 50);
            fill_normal(part(parts, 0, cut), key, 1, 0.5f, 50);
            fill_normal(part(parts, cut, 333), key, 1, 0.5f, 50 + static_cast<std::uint64_t>(cut));
            EXPECT_TRUE(parts.same_bits(whole)) << cut;
            fill_uniform(whole.view(), key, 1, 3, 50);
            fill_uniform(part(parts, 0, cut), key, 1, 3, 50);
            fill_uniform(part(parts, cut, 333), key, 1, 3, 50 + static_cast<std::uint64_t>(cut));
            EXPECT_TRUE(parts.same_bits(whole)) << cut;
        }
}

} // namespace random_test
