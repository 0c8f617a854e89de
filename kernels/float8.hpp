// SPDX-License-Identifier: Apache-2.0
// The two 8-bit numbers of matrix products (OCP 8-bit Floating Point Specification): e4m3 has more mantissa, for
// values; e5m2 more range, for gradients. Both want a scale beside them (kernels/quantize.hpp).
#pragma once

#include "kernels/tensor.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace tessera {

// Conversion from float rounds to nearest even; what is too large, infinity too, becomes the largest number; NaN stays
// NaN. e4m3 has no infinity.
template <int exponent_bits, int mantissa_bits> struct Float8 {
    static constexpr int bias = (1 << (exponent_bits - 1)) - 1;
    static constexpr bool has_infinity = mantissa_bits == 2;
    static constexpr std::uint8_t largest_bits = has_infinity ? 0x7b : 0x7e;
    static constexpr float largest = has_infinity ? 57344 : 448;

    std::uint8_t bits = 0;

    Float8() = default;
    explicit Float8(float value) {
        const auto word = std::bit_cast<std::uint32_t>(value);
        const std::uint32_t magnitude = word & 0x7fffffffu;
        if (magnitude > 0x7f800000u) {
            bits = 0x7f;
            return;
        }
        constexpr std::uint32_t smallest_normal = (127u - bias + 1) << 23;
        std::uint32_t rounded;
        if (magnitude < smallest_normal) { // the addition rounds to a multiple of the smallest subnormal
            constexpr std::uint32_t anchor = (127u - bias + 1 - mantissa_bits + 23) << 23;
            rounded =
                std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + std::bit_cast<float>(anchor)) - anchor;
        } else {
            constexpr int cut = 23 - mantissa_bits;
            rounded = ((magnitude + (1u << (cut - 1)) - 1 + ((magnitude >> cut) & 1u)) >> cut) -
                      ((127u - bias) << mantissa_bits);
        }
        if (rounded > largest_bits) rounded = largest_bits;
        bits = static_cast<std::uint8_t>(rounded | (word >> 24 & 0x80u));
    }
    explicit operator float() const {
        const int code = bits & 0x7f, exponent = code >> mantissa_bits;
        float magnitude;
        if (code > largest_bits)
            magnitude = has_infinity && code == 0x7c ? std::numeric_limits<float>::infinity()
                                                     : std::numeric_limits<float>::quiet_NaN();
        else if (exponent == 0)
            magnitude = std::ldexp(static_cast<float>(code), 1 - bias - mantissa_bits);
        else
            magnitude = std::bit_cast<float>((static_cast<std::uint32_t>(code) << (23 - mantissa_bits)) +
                                             ((127u - bias) << 23));
        return (bits & 0x80) != 0 ? -magnitude : magnitude;
    }
};

using Float8E4M3 = Float8<4, 3>;
using Float8E5M2 = Float8<5, 2>;
template <> constexpr DType dtype_of<Float8E4M3>() { return DType::f8e4m3; }
template <> constexpr DType dtype_of<Float8E5M2>() { return DType::f8e5m2; }

// Calls work.template operator()<T>() with the type of an 8-bit dtype; false for any other.
template <class Work> bool with_float8_type(DType dtype, const Work& work) {
    if (dtype == DType::f8e4m3)
        work.template operator()<Float8E4M3>();
    else if (dtype == DType::f8e5m2)
        work.template operator()<Float8E5M2>();
    else
        return false;
    return true;
}

} // namespace tessera
