// SPDX-License-Identifier: Apache-2.0
// 8-bit numbers against the plain definition in double: every code, every boundary between two, every bf16.
#include "kernels/float8.hpp"

#include <gtest/gtest.h>
#include <vector>

using namespace tessera;

namespace float8_test {

namespace {

// (-1)^sign 2^(exponent - bias) (1 + mantissa), subnormals below, NaN and infinity above.
double value_of(int code, int exponent_bits, int mantissa_bits) {
    const int bias = (1 << (exponent_bits - 1)) - 1, exponent = (code & 0x7f) >> mantissa_bits;
    const double mantissa = (code & ((1 << mantissa_bits) - 1)) / std::pow(2.0, mantissa_bits);
    const double sign = (code & 0x80) != 0 ? -1 : 1;
    if (mantissa_bits == 3 && (code & 0x7f) == 0x7f) return std::numeric_limits<double>::quiet_NaN();
    if (mantissa_bits == 2 && exponent == 31)
        return mantissa == 0 ? sign * std::numeric_limits<double>::infinity()
                             : std::numeric_limits<double>::quiet_NaN();
    if (exponent == 0) return sign * std::pow(2.0, 1 - bias) * mantissa;
    return sign * std::pow(2.0, exponent - bias) * (1 + mantissa);
}

// The finite code whose value is nearest, of two the even one.
int nearest_code(double value, int exponent_bits, int mantissa_bits) {
    if (std::isnan(value)) return 0x7f;
    const int largest = mantissa_bits == 3 ? 0x7e : 0x7b;
    const bool beyond = std::abs(value) > value_of(largest, exponent_bits, mantissa_bits);
    int best = beyond ? largest : 0;
    for (int code = 1; code <= largest && !beyond; ++code) {
        const double error = std::abs(std::abs(value) - value_of(code, exponent_bits, mantissa_bits));
        const double least = std::abs(std::abs(value) - value_of(best, exponent_bits, mantissa_bits));
        if (error < least || (error == least && code % 2 == 0)) best = code;
    }
    return best | (std::signbit(value) ? 0x80 : 0);
}

template <class Number> class Float8s : public testing::Test {};
using Numbers = testing::Types<Float8E4M3, Float8E5M2>;
struct Names {
    template <class Number> static std::string GetName(int) { return Number::has_infinity ? "E5M2" : "E4M3"; }
};

} // namespace

TYPED_TEST_SUITE(Float8s, Numbers, Names);

TYPED_TEST(Float8s, HaveTheDefinedValues) {
    const auto [exponent_bits, mantissa_bits] = TypeParam::has_infinity ? std::pair(5, 2) : std::pair(4, 3);
    for (int code = 0; code < 256; ++code) {
        TypeParam number;
        number.bits = static_cast<std::uint8_t>(code);
        const double expected = value_of(code, exponent_bits, mantissa_bits);
        const auto found = static_cast<float>(number);
        if (std::isnan(expected))
            EXPECT_TRUE(std::isnan(found)) << code;
        else
            EXPECT_TRUE(found == expected && std::signbit(found) == std::signbit(expected)) << code;
    }
    EXPECT_EQ(TypeParam::largest, value_of(TypeParam::largest_bits, exponent_bits, mantissa_bits));
}

// Conversion is monotone, so the numbers on both sides of every boundary decide it everywhere.
TYPED_TEST(Float8s, RoundToTheNearest) {
    const auto [exponent_bits, mantissa_bits] = TypeParam::has_infinity ? std::pair(5, 2) : std::pair(4, 3);
    std::vector<float> values;
    for (int code = 0; code < TypeParam::largest_bits; ++code) {
        const double below = value_of(code, exponent_bits, mantissa_bits);
        const double above = value_of(code + 1, exponent_bits, mantissa_bits);
        for (const double value : {below, (below + above) / 2, above}) {
            const auto exact = static_cast<float>(value);
            ASSERT_EQ(exact, value);
            for (const float near : {std::nextafter(exact, 0.0f), exact, std::nextafter(exact, 1e30f)})
                values.push_back(near);
        }
    }
    for (std::uint32_t word = 0; word < 0x10000; ++word)
        values.push_back(std::bit_cast<float>(word << 16));
    for (const float value : {std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min(),
                              TypeParam::largest * 1.0625f, TypeParam::largest * 1.125f})
        values.push_back(value);
    for (const float value : values)
        for (const float sign : {1.0f, -1.0f}) {
            const int expected = nearest_code(static_cast<double>(sign * value), exponent_bits, mantissa_bits);
            ASSERT_EQ(int{TypeParam(sign * value).bits}, expected) << sign * value;
        }
}

} // namespace float8_test
