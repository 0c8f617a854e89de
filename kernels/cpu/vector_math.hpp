// SPDX-License-Identifier: Apache-2.0
// Elementary functions on sixteen lanes, without branches. Polynomials are fitted to the stated error (minimax by
// iterated least squares on Chebyshev nodes); relative errors are about 1e-7 unless said otherwise. NaN stays NaN.
#pragma once

#include "kernels/cpu/simd.hpp"

#include <limits>

namespace tessera::simd {

// Bits as numbers without a sign: what wraps around is defined.
using Words = std::uint32_t __attribute__((vector_size(64)));

TESSERA_INLINE Words words(Ints bits) { return reinterpret_cast<Words>(bits); }
TESSERA_INLINE Ints ints(Words bits) { return reinterpret_cast<Ints>(bits); }

TESSERA_INLINE Ints bits_of(Floats value) {
    Ints bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

TESSERA_INLINE Floats from_bits(Ints bits) {
    Floats value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

TESSERA_INLINE Floats magnitude(Floats x) { return from_bits(bits_of(x) & 0x7fffffff); }

// |value| with the sign of `sign`. value >= 0.
TESSERA_INLINE Floats with_sign(Floats value, Floats sign) {
    return from_bits(bits_of(value) | (bits_of(sign) & std::numeric_limits<std::int32_t>::min()));
}

// c0 + x * (c1 + x * (c2 + ...))
TESSERA_INLINE Floats polynomial(Floats, float last) { return all(last); }
template <class... Rest> TESSERA_INLINE Floats polynomial(Floats x, float first, Rest... rest) {
    return polynomial(x, rest...) * x + first;
}

TESSERA_INLINE Floats sqrt(Floats x) { // the compiler makes one instruction of the loop
    float part[lanes];
    store(part, x);
    for (float& value : part)
        value = __builtin_sqrtf(value);
    return load(part);
}

// 0 below -87.3365 (no denormal numbers), infinite above 88.7228.
TESSERA_INLINE Floats exp(Floats x) {
    constexpr float low = -87.3365f, high = 88.7228f;
    constexpr float round = 12582912.0f; // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
    const Floats shifted = x * 1.44269504f + round; // what x outside [low, high] gives is not used
    const Floats whole = shifted - round;
    Floats r = x - whole * 0.693145752f; // ln 2 in two parts, the first short enough for an exact product
    r = r - whole * 1.42860677e-06f;
    const Floats q = polynomial(r, 0.49999994f, 0.166665211f, 0.041668389f, 0.00836871006f, 0.00138146128f); // 3e-9
    const Floats mantissa = q * (r * r) + r + 1.0f;
    const Words scaled = words(bits_of(mantissa)) + (words(bits_of(shifted)) << 23); // times 2^whole
    const Floats y = from_bits(ints(scaled));
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const Floats upper = x <= high ? y : x + infinity;
    return x < low ? Floats{} : upper;
}

// x: normal numbers; 0 gives -infinity, a negative number NaN.
TESSERA_INLINE Floats log(Floats x) {
    const Ints exponent =
        ints(words(bits_of(x)) - 0x3f3504f3u) >> 23; // so that the mantissa lies in [sqrt(1/2), sqrt(2))
    const Floats whole = __builtin_convertvector(exponent, Floats);
    const Floats f = from_bits(ints(words(bits_of(x)) - (words(exponent) << 23))) - 1.0f;
    const Floats p = polynomial(f, 0.333333135f, -0.250000089f, 0.200021192f, -0.166679963f, 0.142195523f,
                                -0.124055892f, 0.11888162f, -0.116756521f, 0.0674664006f); // 7e-10
    const Floats square = f * f;
    Floats low = p * f * square + whole * 1.42860677e-06f;
    low = low - 0.5f * square;
    const Floats y = whole * 0.693145752f + (f + low);
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const Floats special = x < 0.0f ? all(std::numeric_limits<float>::quiet_NaN()) : x;
    const Floats other = x == 0.0f ? all(-infinity) : special;
    return ((x > 0.0f) & (x < infinity)) ? y : other;
}

// 1 / (1 + exp(-x))
TESSERA_INLINE Floats sigmoid(Floats x) { return 1.0f / (1.0f + exp(-x)); }

TESSERA_INLINE Floats tanh(Floats x) {
    const Floats square = x * x;
    const Floats p =
        polynomial(square, -0.333332807f, 0.133314416f, -0.0537397154f, 0.020639088f, -0.00570498733f); // 4e-9
    const Floats small = p * square * x + x;
    const Floats size = magnitude(x);
    const Floats large = 1.0f - 2.0f / (exp(2.0f * size) + 1.0f);
    return size < 0.625f ? small : with_sign(large, x);
}

TESSERA_INLINE Floats erf(Floats x) {
    const Floats square = x * x;
    const Floats p = polynomial(square, 0.128379166f, -0.37612626f, 0.112835854f, -0.0268538129f, 0.00518832915f,
                                -0.00080102036f, 7.85389202e-05f); // 1e-9
    const Floats small = p * x + x;
    const Floats size = magnitude(x);
    const Floats inside = min(size, all(4.0f)); // erf(4) rounds to 1
    const Floats q = polynomial(inside, -1.12848008f, -0.635831475f, -0.105116114f, 0.0227984451f, -0.00318694091f,
                                0.000210642494f); // log(erfc(t)) / t on [1, 4], 3e-9 of erf
    const Floats large = with_sign(1.0f - exp(inside * q), x);
    const Floats finite = size < 1.0f ? small : large;
    return x == x ? finite : x;
}

// The normal distribution: probability = P(X <= x), density = exp(-x^2 / 2) / sqrt(2 pi). One exponential for both; the
// relative error grows with x^2 / 2 below 0 (the rounding of the exponent).
struct Normal {
    Floats probability;
    Floats density;
};

TESSERA_INLINE Normal normal(Floats x) {
    const Floats e = exp(x * x * -0.5f);
    const Floats s = 1.0f / (magnitude(x) * 0.35f + 1.0f);
    const Floats p = polynomial(s, 0.139621407f, 0.139861867f, 0.119832873f, 0.105507992f, -0.0231098123f, 0.159174129f,
                                -0.255714238f, 0.143971682f, -0.0291459281f); // P(X > |x|) / (e * s), 3e-8
    const Floats tail = p * s * e;
    return {x < 0.0f ? tail : 1.0f - tail, e * 0.398942280f};
}

// The sine and cosine of a part of a full turn, x in [0, 1].
struct SineCosine {
    Floats sine;
    Floats cosine;
};

TESSERA_INLINE SineCosine sine_cosine_of_turn(Floats x) {
    constexpr float round = 12582912.0f;
    const Floats shifted = x * 4.0f + round;
    const Floats f = x * 4.0f - (shifted - round); // exact, in [-1/2, 1/2] of a quarter turn
    const Floats square = f * f;
    const Floats sine =
        polynomial(square, 1.57079637f, -0.645964086f, 0.0796925798f, -0.00468126079f, 0.000158195107f) * f;
    const Floats cosine =
        polynomial(square, 1.0f, -1.23370051f, 0.253669232f, -0.0208602883f, 0.000904021668f); // 5e-11
    const Ints quarter = bits_of(shifted);
    const auto odd = (quarter & 1) != 0;
    const Ints sign_of_sine = (quarter & 2) << 30;
    const Ints sign_of_cosine = ((quarter + 1) & 2) << 30;
    return {from_bits(bits_of(odd ? cosine : sine) ^ sign_of_sine),
            from_bits(bits_of(odd ? sine : cosine) ^ sign_of_cosine)};
}

} // namespace tessera::simd
