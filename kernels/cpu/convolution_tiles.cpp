// SPDX-License-Identifier: Apache-2.0
// The loops over the tiles of a convolution: as a product's (matmul_tile.hpp), but each row has a register of its own
// that says where it is, and the words of a window are found at the same offsets from all of them.
#include "kernels/cpu/convolution_tiles.hpp"

#include "kernels/cpu/matmul_block.hpp"
#include "kernels/cpu/tiles.hpp"

#include <algorithm>
#include <cstring>

namespace tessera::kernels {
namespace {

using simd::Floats;

template <int R, int V>
TESSERA_INLINE void multiply_tile(const Tiles& of, std::int64_t row, std::int64_t column, const float* bias) {
    Floats sum[R][V];
    const std::int64_t columns = of.columns - column;
    simd::unrolled<R * V>([&](auto index) TESSERA_INLINE_LAMBDA {
        constexpr int r = index / V, x = index % V * simd::lanes;
        sum[r][index % V] = simd::load(bias + x);
        if (!of.read_c) return;
        const float* const c = of.c + of.c_rows[row + r] + column + x;
        sum[r][index % V] += columns - x >= simd::lanes ? simd::load(c) : simd::load(c, columns - x);
    });
    const float* from[R];
    simd::unrolled<R>([&](auto r) TESSERA_INLINE_LAMBDA { from[r] = of.a + of.a_rows[row + r]; });
    const float* const panel = of.b + column / panel_columns * of.b_panel;
    const std::int64_t a_step = of.a_step, b_step = of.b_step, count = of.count;
    for (std::int64_t segment = 0; segment < of.segments; ++segment) {
        std::int64_t at = of.a_at[segment];
        const float* b = panel + of.b_at[segment];
        for (std::int64_t k = 0; k < count; ++k, at += a_step, b += b_step) {
            Floats vectors[V];
            simd::unrolled<V>([&](auto v) TESSERA_INLINE_LAMBDA { vectors[v] = simd::load(b + v * simd::lanes); });
            simd::unrolled<R>([&](auto r) TESSERA_INLINE_LAMBDA {
                const float value = from[r][at];
                simd::unrolled<V>([&](auto v) TESSERA_INLINE_LAMBDA { sum[r][v] += value * vectors[v]; });
            });
        }
    }
    simd::unrolled<R * V>([&](auto index) TESSERA_INLINE_LAMBDA {
        constexpr int r = index / V, x = index % V * simd::lanes;
        float* const c = of.c + of.c_rows[row + r] + column + x;
        if (columns - x >= simd::lanes)
            simd::store(c, sum[r][index % V]);
        else
            simd::store(c, sum[r][index % V], columns - x);
    });
}

template <int V> TESSERA_INLINE void multiply_panel(const Tiles& of, std::int64_t column) {
    float bias[panel_columns] = {};
    if (of.bias != nullptr)
        std::memcpy(bias, of.bias + column,
                    static_cast<std::size_t>(std::min<std::int64_t>(panel_columns, of.columns - column)) *
                        sizeof(float));
    for (std::int64_t row = 0; row < of.rows;) {
        const int size = next_tile_rows(of.rows - row);
        const auto tile = [&](auto rows)
                              TESSERA_INLINE_LAMBDA { multiply_tile<decltype(rows)::value, V>(of, row, column, bias); };
        switch (size) {
        case 12:
            tile(std::integral_constant<int, 12>{});
            break;
        case 10:
            tile(std::integral_constant<int, 10>{});
            break;
        case 9:
            tile(std::integral_constant<int, 9>{});
            break;
        case 8:
            tile(std::integral_constant<int, 8>{});
            break;
        case 6:
            tile(std::integral_constant<int, 6>{});
            break;
        case 4:
            tile(std::integral_constant<int, 4>{});
            break;
        case 2:
            tile(std::integral_constant<int, 2>{});
            break;
        default:
            tile(std::integral_constant<int, 1>{});
            break;
        }
        row += size;
    }
}

} // namespace

TESSERA_MULTIVERSION void multiply_tiles(const Tiles& given) {
    const std::int64_t block = std::max<std::int64_t>(1, tile_words / std::max<std::int64_t>(given.count, 1));
    for (std::int64_t column = 0; column < given.columns; column += panel_columns) {
        std::int64_t segment = 0;
        do {                  // once at least, as a sum of nothing still is written
            Tiles of = given; // what is written to c cannot alias a copy
            of.a_at += segment, of.b_at += segment;
            of.segments = std::min(block, given.segments - segment);
            of.read_c = given.read_c || segment > 0;
            if (segment > 0) of.bias = nullptr;
            if (of.columns - column > simd::lanes)
                multiply_panel<2>(of, column);
            else
                multiply_panel<1>(of, column);
            segment += block;
        } while (segment < given.segments);
    }
}

} // namespace tessera::kernels
