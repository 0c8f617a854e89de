// SPDX-License-Identifier: Apache-2.0
// The loops over the tiles of one block, for any arithmetic on words; matmul_f32.cpp and matmul_bf16.cpp compile them.
#pragma once

#include "kernels/cpu/matmul_block.hpp"
#include "kernels/cpu/tiles.hpp"

#include <algorithm>

namespace tessera::kernels {

// Part of c as floats: `columns` of `rows` rows from c, or (write) to c. For tiles at the edge; the sums of a tile
// itself must never be indexed by a variable, or the compiler keeps them in memory.
template <int row_floats> TESSERA_INLINE void read_part(const MatmulBlock& block, std::int64_t row, std::int64_t column,
                                                        int rows, std::int64_t columns, float* to) {
    for (int r = 0; r < rows; ++r) {
        const std::int64_t offset = (row + r) * block.c_stride + column;
        for (std::int64_t x = 0; x < columns; ++x)
            to[r * row_floats + x] = block.output == DType::f32 ? static_cast<const float*>(block.c)[offset + x]
                                     : block.output == DType::bf16
                                         ? static_cast<float>(static_cast<const BFloat16*>(block.c)[offset + x])
                                         : static_cast<float>(static_cast<const Float16*>(block.c)[offset + x]);
    }
}

template <class Arithmetic, int row_floats> TESSERA_INLINE void write_part(const MatmulBlock& block, std::int64_t row,
                                                                           std::int64_t column, int rows,
                                                                           std::int64_t columns, const float* from) {
    for (int r = 0; r < rows; ++r) {
        const std::int64_t offset = (row + r) * block.c_stride + column;
        if (block.output == DType::f32) {
            std::memcpy(static_cast<float*>(block.c) + offset, from + r * row_floats,
                        static_cast<std::size_t>(columns) * sizeof(float));
            continue;
        }
        if (block.output == DType::f16) {
            Float16 rounded[row_floats];
            for (int x = 0; x < row_floats; x += simd::lanes)
                simd::store(rounded + x, simd::load(from + r * row_floats + x));
            std::memcpy(static_cast<void*>(static_cast<Float16*>(block.c) + offset), rounded,
                        static_cast<std::size_t>(columns) * sizeof(Float16));
            continue;
        }
        BFloat16 rounded[row_floats];
        for (int x = 0; x < row_floats; x += simd::lanes)
            Arithmetic::store(rounded + x, simd::load(from + r * row_floats + x));
        std::memcpy(static_cast<BFloat16*>(block.c) + offset, rounded,
                    static_cast<std::size_t>(columns) * sizeof(BFloat16));
    }
}

// Whether a tile's sums move between c and registers directly. In f16 they go by way of memory, as at an edge: one more
// way through all tiles would cost more than it gains.
TESSERA_INLINE bool is_direct(const MatmulBlock& block, std::int64_t columns, int row_floats) {
    return columns == row_floats && block.output != DType::f16;
}

// Sums of a whole tile added from c, or written to it. With bf16 the tile's arithmetic knows how to round.
template <class Element, int R, int V>
TESSERA_INLINE void read_tile(const Element* c, std::int64_t stride, simd::Floats (&sum)[R][V]) {
    simd::unrolled<R * V>([&](auto index) TESSERA_INLINE_LAMBDA {
        sum[index / V][index % V] += simd::load(c + index / V * stride + index % V * simd::lanes);
    });
}

template <class Arithmetic, class Element, int R, int V>
TESSERA_INLINE void write_tile(Element* c, std::int64_t stride, const simd::Floats (&sum)[R][V]) {
    simd::unrolled<R * V>([&](auto index) TESSERA_INLINE_LAMBDA {
        Arithmetic::store(c + index / V * stride + index % V * simd::lanes, sum[index / V][index % V]);
    });
}

// The start of a tile's sums: bias and c, where there are such.
template <int R, int V> TESSERA_INLINE void start_tile(const MatmulBlock& block, std::int64_t row, std::int64_t column,
                                                       std::int64_t columns, simd::Floats (&sum)[R][V]) {
    constexpr int row_floats = V * simd::lanes;
    if (block.bias != nullptr) {
        float bias[row_floats] = {};
        std::memcpy(bias, block.bias + column, static_cast<std::size_t>(columns) * sizeof(float));
        simd::unrolled<R * V>([&](auto index) TESSERA_INLINE_LAMBDA {
            sum[index / V][index % V] = simd::load(bias + index % V * simd::lanes);
        });
    } else {
        simd::unrolled<R * V>([&](auto index) TESSERA_INLINE_LAMBDA { sum[index / V][index % V] = simd::Floats{}; });
    }
    if (!block.read_c) return;
    if (is_direct(block, columns, row_floats)) {
        const std::int64_t offset = row * block.c_stride + column;
        if (block.output == DType::f32)
            read_tile(static_cast<const float*>(block.c) + offset, block.c_stride, sum);
        else
            read_tile(static_cast<const BFloat16*>(block.c) + offset, block.c_stride, sum);
        return;
    }
    float part[R * row_floats] = {};
    read_part<row_floats>(block, row, column, R, columns, part);
    read_tile(part, row_floats, sum);
}

template <int R, int V, bool k_outer, class Arithmetic>
TESSERA_INLINE void multiply_tile(const MatmulBlock& block, const float* a, std::int64_t row, std::int64_t column) {
    constexpr int row_floats = V * simd::lanes;
    const std::int64_t columns = std::min<std::int64_t>(block.columns - column, row_floats);
    simd::Floats sum[R][V];
    start_tile(block, row, column, columns, sum);
    const float* b = block.b + column / panel_columns * block.b_panel_stride;
    const std::int64_t stride = block.a_order == TileOrder::packed ? R : block.a_stride;
    simd::multiply<R, V, k_outer, Arithmetic>(a, stride, b, panel_columns, block.words, sum);
    if (is_direct(block, columns, row_floats)) {
        const std::int64_t offset = row * block.c_stride + column;
        if (block.output == DType::f32)
            write_tile<Arithmetic>(static_cast<float*>(block.c) + offset, block.c_stride, sum);
        else
            write_tile<Arithmetic>(static_cast<BFloat16*>(block.c) + offset, block.c_stride, sum);
        return;
    }
    float part[R * row_floats];
    write_tile<Arithmetic>(part, row_floats, sum);
    write_part<Arithmetic, row_floats>(block, row, column, R, columns, part);
}

template <int V, bool k_outer, class Arithmetic>
TESSERA_INLINE void multiply_panel(const MatmulBlock& block, std::int64_t column) {
    const std::int64_t row_stride = block.a_order == TileOrder::rows      ? block.a_stride
                                    : block.a_order == TileOrder::columns ? 1
                                                                          : block.words;
    for (std::int64_t row = 0; row < block.rows;) {
        const float* a = block.a + row * row_stride;
        const int size = next_tile_rows(block.rows - row);
        const auto tile = [&](auto rows) TESSERA_INLINE_LAMBDA {
            multiply_tile<decltype(rows)::value, V, k_outer, Arithmetic>(block, a, row, column);
        };
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

// A panel of b stays near while all rows pass by.
template <bool k_outer, class Arithmetic> TESSERA_INLINE void multiply_block(const MatmulBlock& given) {
    const MatmulBlock block = given; // what is written to c cannot alias a copy
    for (std::int64_t column = 0; column < block.columns; column += panel_columns) {
        if (block.columns - column > simd::lanes)
            multiply_panel<2, k_outer, Arithmetic>(block, column);
        else
            multiply_panel<1, k_outer, Arithmetic>(block, column);
    }
}

} // namespace tessera::kernels
