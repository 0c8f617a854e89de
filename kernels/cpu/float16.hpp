// SPDX-License-Identifier: Apache-2.0
// f16 in sixteen float lanes: the conversions of Float16, lane by lane, with the same bits on every instruction set.
#pragma once

#include "kernels/cpu/simd.hpp"

namespace tessera::simd {

TESSERA_INLINE Floats load(const Float16* from) {
    using Lanes = std::uint32_t __attribute__((vector_size(64)));
    std::uint32_t part[lanes];
    for (int lane = 0; lane < lanes; ++lane)
        part[lane] = from[lane].bits;
    Lanes code, bits;
    std::memcpy(&code, part, sizeof code);
    const Lanes twice = code << 17, normal_bits = (twice >> 4) + 0x70000000u,
                subnormal_bits = twice >> 17 | 0x3f000000u;
    Floats normal, subnormal, value;
    std::memcpy(&normal, &normal_bits, sizeof normal);
    std::memcpy(&subnormal, &subnormal_bits, sizeof subnormal);
    value = twice < 0x08000000u ? subnormal - 0.5f : normal * 0x1p-112f;
    std::memcpy(&bits, &value, sizeof bits);
    bits |= (code & 0x8000u) << 16;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

TESSERA_INLINE void store(Float16* to, Floats value) {
    using Lanes = std::uint32_t __attribute__((vector_size(64)));
    Lanes word;
    std::memcpy(&word, &value, sizeof word);
    const Lanes twice = word + word, magnitude_bits = word & 0x7fffffffu, high = twice & 0xff000000u;
    const Lanes least = Lanes{} + 0x71000000u, shift = ((high < least ? least : high) >> 1) + 0x07800000u;
    Floats magnitude, shifted;
    std::memcpy(&magnitude, &magnitude_bits, sizeof magnitude);
    std::memcpy(&shifted, &shift, sizeof shifted);
    const Floats rounded = magnitude * 0x1p+112f * 0x1p-110f + shifted;
    Lanes code;
    std::memcpy(&code, &rounded, sizeof code);
    const Lanes number = (code >> 13 & 0x7c00u) + (code & 0x0fffu);
    const Lanes chosen = (word >> 16 & 0x8000u) | (twice > 0xff000000u ? Lanes{} + 0x7e00u : number);
    std::uint32_t part[lanes];
    std::memcpy(part, &chosen, sizeof part);
    for (int lane = 0; lane < lanes; ++lane)
        to[lane].bits = static_cast<std::uint16_t>(part[lane]);
}

// The first `count` lanes (0 <= count < lanes), `rest` in the others.
TESSERA_INLINE Floats load(const Float16* from, std::int64_t count, float rest = 0) {
    const int end = static_cast<int>(count);
    Float16 part[lanes];
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane)
        part[lane].bits = lane < end ? from[lane].bits : std::uint16_t{0};
    const Ints number = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return number < end ? load(part) : all(rest); // the rest is not rounded to f16
}

TESSERA_INLINE void store(Float16* to, Floats value, std::int64_t count) {
    const int end = static_cast<int>(count);
    Float16 part[lanes];
    store(part, value);
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane)
        if (lane < end) to[lane].bits = part[lane].bits;
}

} // namespace tessera::simd
