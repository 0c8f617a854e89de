// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding on the CPU: the sines and cosines of a position are made once for all batches and heads.
#include "kernels/rotary.hpp"

#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/vector_math.hpp"
#include "kernels/error.hpp"

#include <cmath>
#include <fmt/format.h>

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t elements_per_thread = 32768;
constexpr std::int64_t largest_chunk = 64; // pairs whose angles are made together

// Neighbouring pairs [first, first + count) of every head at one position after the other.
struct Chunk {
    std::int64_t first, count;
    std::array<std::uint64_t, largest_chunk> turn; // of each pair in one position, as a fraction of 2^64
};

Chunk chunk_of(const Rotary& which, const RotarySizes& sizes, std::int64_t first) {
    Chunk chunk{first, std::min(largest_chunk, sizes.pairs - first), {}};
    for (std::int64_t i = 0; i < chunk.count; ++i) {
        const double angle = std::exp2(static_cast<double>(first + i) * -sizes.octaves);
        const double scale = which.scaling.of_angle(0x1p64 / (angle * rotary_turn));
        chunk.turn[static_cast<std::size_t>(i)] = static_cast<std::uint64_t>(angle * scale * rotary_turn);
    }
    return chunk;
}

// Cosines and sines of the chunk's angles at one position; where interleaved, for each element of a pair, the sine of
// the first negative.
struct Angles {
    alignas(64) float cosine[2 * largest_chunk];
    alignas(64) float sine[2 * largest_chunk];
};

TESSERA_INLINE Floats pairs_swapped(Floats value) {
    return __builtin_shufflevector(value, value, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
}

// The product of turn and position may overflow: whole turns do not matter.
TESSERA_INLINE void angles_at(const Chunk& chunk, std::int64_t position, float direction, bool interleaved,
                              Angles& angles) {
    float turned[largest_chunk] = {}; // in [-1/2, 1/2) of a turn
    for (std::int64_t i = 0; i < chunk.count; ++i) {
        const std::uint64_t turn = chunk.turn[static_cast<std::size_t>(i)] * static_cast<std::uint64_t>(position);
        turned[i] = static_cast<float>(static_cast<std::int32_t>(turn >> 32)) * 0x1p-32f;
    }
    for (std::int64_t i = 0; i < chunk.count; i += simd::lanes) {
        const simd::SineCosine at = simd::sine_cosine_of_turn(simd::load(turned + i));
        const Floats sine = at.sine * direction;
        if (!interleaved) {
            simd::store(angles.cosine + i, at.cosine);
            simd::store(angles.sine + i, sine);
            continue;
        }
        for (int lane = 0; lane < simd::lanes; ++lane)
            for (int element = 0; element < 2; ++element) {
                angles.cosine[2 * (i + lane) + element] = at.cosine[lane];
                angles.sine[2 * (i + lane) + element] = element == 0 ? -sine[lane] : sine[lane];
            }
    }
}

// Positions [begin, end) of all batches.
template <class T> TESSERA_MULTIVERSION void rotate(const Rotary& which, const RotarySizes& sizes, const Chunk& chunk,
                                                    float direction, std::int64_t begin, std::int64_t end, T* x) {
    const bool interleaved = which.pairs == RotaryPairs::interleaved;
    const std::int64_t head = 2 * sizes.pairs;
    Angles angles;
    for (std::int64_t t = begin; t < end; ++t) {
        angles_at(chunk, which.first_position + t, direction, interleaved, angles);
        for (std::int64_t batch = 0; batch < sizes.batch; ++batch) {
            T* token = x + (batch * sizes.time + t) * sizes.heads * head;
            for (std::int64_t h = 0; h < sizes.all_turning(); ++h) {
                T* row = token + sizes.head(h) * head;
                if (interleaved) {
                    T* at = row + 2 * chunk.first;
                    simd::for_columns(2 * chunk.count, [&](std::int64_t c, auto width) TESSERA_INLINED {
                        const Floats value = simd::load(at + c, width);
                        simd::store(at + c,
                                    value * simd::load(angles.cosine + c) +
                                        pairs_swapped(value) * simd::load(angles.sine + c),
                                    width);
                    });
                    continue;
                }
                T *first = row + chunk.first, *second = first + sizes.pairs;
                simd::for_columns(chunk.count, [&](std::int64_t c, auto width) TESSERA_INLINED {
                    const Floats a = simd::load(first + c, width), b = simd::load(second + c, width);
                    const Floats cosine = simd::load(angles.cosine + c), sine = simd::load(angles.sine + c);
                    simd::store(first + c, a * cosine - b * sine, width);
                    simd::store(second + c, a * sine + b * cosine, width);
                });
            }
        }
    }
}

void run(const CpuStream& stream, const Rotary& which, float direction, View x) {
    const RotarySizes sizes = rotary_sizes(which, x);
    const std::int64_t elements = sizes.batch * sizes.all_turning() * 2 * sizes.pairs; // of a position
    with_float_type("rotary", x.dtype, [&]<class T>() {
        for (std::int64_t first = 0; first < sizes.pairs; first += largest_chunk) {
            const Chunk chunk = chunk_of(which, sizes, first);
            const auto work = [&](std::int64_t begin, std::int64_t end) {
                rotate(which, sizes, chunk, direction, begin, end, x.as<T>());
            };
            stream.parallel(sizes.time, rows_per_thread(elements, elements_per_thread), std::ref(work));
        }
    });
}

} // namespace

RotarySizes rotary_sizes(const Rotary& which, const ConstView& x) {
    const Shape& shape = x.shape;
    const std::int64_t period = shape.rank() == 4 && which.period == 0 ? shape[2] : which.period;
    if (shape.rank() != 4 || shape[3] % 2 != 0 || !(which.theta >= 1) || which.heads < 0 || which.heads > period ||
        period < 0 || (period > 0 && shape[2] % period != 0) || !(which.scaling.factor >= 1))
        throw InternalError(
            fmt::format("rotary: x is {}, theta {}, {} of {} heads turn; expected (B, T, H, an even D), "
                        "theta at least 1, whole periods of heads",
                        shape.text(), which.theta, which.heads, period));
    const std::int64_t pairs = shape[3] / 2;
    return {shape[0],
            shape[1],
            shape[2],
            pairs,
            which.heads == 0 ? period : which.heads,
            std::max<std::int64_t>(period, 1),
            pairs == 0 ? 0 : std::log2(which.theta) / static_cast<double>(pairs)};
}

void rotary(CpuStream& stream, const Rotary& which, View x) { run(stream, which, 1, x); }
void rotary_gradient(CpuStream& stream, const Rotary& which, View dy) { run(stream, which, -1, dy); }

} // namespace tessera::kernels
