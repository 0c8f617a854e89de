// SPDX-License-Identifier: Apache-2.0
// What the CPU kernels' loops have in common: bf16 lanes, the choice of element type, checked counts, and the map of a
// function over elements.
#pragma once

#include "kernels/check.hpp"
#include "kernels/cpu/float16.hpp"
#include "kernels/cpu/simd.hpp"
#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <string_view>
#include <tuple>
#include <utility>

namespace tessera::simd {

using Words = std::uint32_t __attribute__((vector_size(64)));
// Conversions between bf16 and float are plain loops over the lanes: the compiler makes one widening or narrowing move
// of them, which it does not of whole-vector conversions.
TESSERA_INLINE Floats load(const BFloat16* from) {
    std::uint32_t part[lanes];
    for (int lane = 0; lane < lanes; ++lane)
        part[lane] = static_cast<std::uint32_t>(from[lane].bits) << 16;
    Floats value;
    std::memcpy(&value, part, sizeof value);
    return value;
}

// Rounds to nearest even; NaN stays NaN. The same bits as BFloat16's constructor.
TESSERA_INLINE void store(BFloat16* to, Floats value) {
    Words words;
    std::memcpy(&words, &value, sizeof words);
    const Words rounded = value == value ? words + 0x7fffu + ((words >> 16) & 1u) : words | 0x400000u;
    std::uint32_t part[lanes];
    std::memcpy(part, &rounded, sizeof part);
    for (int lane = 0; lane < lanes; ++lane)
        to[lane].bits = static_cast<std::uint16_t>(part[lane] >> 16);
}

// The first `count` lanes (0 <= count < lanes), `rest` in the others.
TESSERA_INLINE Floats load(const BFloat16* from, std::int64_t count, float rest = 0) {
    const int end = static_cast<int>(count);
    std::uint16_t part[lanes];
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane)
        part[lane] = lane < end ? from[lane].bits : std::uint16_t{0};
    std::uint32_t wide[lanes];
    for (int lane = 0; lane < lanes; ++lane)
        wide[lane] = static_cast<std::uint32_t>(part[lane]) << 16;
    Floats value;
    std::memcpy(&value, wide, sizeof value);
    const Ints number = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return number < end ? value : all(rest); // the rest is not rounded to bf16
}

TESSERA_INLINE void store(BFloat16* to, Floats value, std::int64_t count) {
    const int end = static_cast<int>(count);
    BFloat16 part[lanes];
    store(part, value);
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane)
        if (lane < end) to[lane].bits = part[lane].bits;
}

// A full vector, where a generic loop body is handed a width.
struct Full {};
template <class T> TESSERA_INLINE Floats load(const T* from, Full, float = 0) { return load(from); }
template <class T> TESSERA_INLINE void store(T* to, Floats value, Full) { store(to, value); }

// Calls body(c, width) for the vectors of a row, from first to last; width is Full, or the rest for the last one. The
// body is a lambda marked TESSERA_INLINED, so that it is compiled for the instruction set of its caller.
#define TESSERA_INLINED __attribute__((always_inline))
template <class Body> TESSERA_INLINE void for_columns(std::int64_t columns, const Body& body) {
    std::int64_t c = 0;
    for (; c + lanes <= columns; c += lanes)
        body(c, Full{});
    if (c < columns) body(c, columns - c);
}

} // namespace tessera::simd

namespace tessera::kernels {

// Calls work.template operator()<T>() with T = float, BFloat16 or Float16.
template <class Work> void with_float_type(std::string_view kernel, DType dtype, const Work& work) {
    if (dtype == DType::f32)
        work.template operator()<float>();
    else if (dtype == DType::bf16)
        work.template operator()<BFloat16>();
    else if (dtype == DType::f16)
        work.template operator()<Float16>();
    else
        refuse_dtype(kernel, dtype);
}

// How many rows of `columns` elements are worth a thread of their own: about 10 us of work at `elements_per_thread`.
inline std::int64_t rows_per_thread(std::int64_t columns, std::int64_t elements_per_thread) {
    return std::max<std::int64_t>(1, elements_per_thread / std::max<std::int64_t>(columns, 1));
}

// out[i] = operation(in[i]...) for a count that is a multiple of the lanes. Not inlined anywhere, so that an element
// gets the same instructions, and thus the same bits, wherever it stands in a tensor.
template <class Operation, class Out, class... In> TESSERA_MULTIVERSION __attribute__((noinline)) void
map_lanes(const Operation& operation, std::int64_t count, Out* out, const In*... in) {
    for (std::int64_t i = 0; i < count; i += simd::lanes)
        simd::store(out + i, operation(simd::load(in + i)...));
}

// out[i] = operation(in[i]...) with operation a function of Floats, always inline, of a type without external linkage.
// `out` may be any of `in`. A thread is given at least `grain` elements.
template <class Operation, class Out, class... In> void map(const CpuStream& stream, std::int64_t grain,
                                                            const Operation& operation, std::int64_t count, Out* out,
                                                            const In*... in) {
    const std::int64_t vectors = count / simd::lanes;
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        map_lanes(operation, (end - begin) * simd::lanes, out + begin * simd::lanes, (in + begin * simd::lanes)...);
    };
    stream.parallel(vectors, grain / simd::lanes, std::ref(work));
    const std::int64_t done = vectors * simd::lanes;
    if (done == count) return;
    std::array<Out, simd::lanes> result;
    const std::tuple<std::pair<std::array<In, simd::lanes>, const In*>...> padded{{{}, in + done}...};
    std::apply(
        [&](auto... input) {
            (std::copy_n(input.second, count - done, input.first.begin()), ...);
            map_lanes(operation, simd::lanes, result.data(), input.first.data()...);
        },
        padded);
    std::copy_n(result.begin(), count - done, out + done);
}

} // namespace tessera::kernels
