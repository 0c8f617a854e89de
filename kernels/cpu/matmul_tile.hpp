// SPDX-License-Identifier: Apache-2.0
// The loops over the tiles of one block, for any arithmetic on words; matmul_f32.cpp and matmul_bf16.cpp compile them.
#pragma once

#include "kernels/cpu/matmul_block.hpp"
#include "kernels/cpu/tiles.hpp"

namespace tessera::kernels {

// Sixteen (or fewer) elements of c, of either dtype.
TESSERA_INLINE simd::Floats load_c(const void* c, DType dtype, std::int64_t offset, std::int64_t count) {
    if (dtype == DType::f32) {
        const float* from = static_cast<const float*>(c) + offset;
        return count >= simd::lanes ? simd::load(from) : simd::load(from, count);
    }
    BFloat16 part[simd::lanes] = {};
    const auto bytes = static_cast<std::size_t>(count < simd::lanes ? count : simd::lanes) * sizeof(BFloat16);
    std::memcpy(part, static_cast<const BFloat16*>(c) + offset, bytes);
    return simd::load(part);
}

TESSERA_INLINE void store_c(void* c, DType dtype, std::int64_t offset, std::int64_t count, simd::Floats value) {
    if (dtype == DType::f32) {
        float* to = static_cast<float*>(c) + offset;
        if (count >= simd::lanes)
            simd::store(to, value);
        else
            simd::store(to, value, count);
        return;
    }
    BFloat16 part[simd::lanes];
    simd::store(part, value);
    const auto bytes = static_cast<std::size_t>(count < simd::lanes ? count : simd::lanes) * sizeof(BFloat16);
    std::memcpy(static_cast<BFloat16*>(c) + offset, part, bytes);
}

// The start of a tile's sums: bias and c, where there are such.
template <int R, int V> TESSERA_INLINE void start_tile(const MatmulBlock& block, std::int64_t row, std::int64_t column,
                                                       simd::Floats (&sum)[R][V]) {
    simd::unrolled<V>([&](auto v) TESSERA_INLINE_LAMBDA {
        const std::int64_t left = block.columns - column - v * simd::lanes;
        simd::Floats start{};
        if (block.bias != nullptr && left > 0) {
            const float* from = block.bias + column + v * simd::lanes;
            start = left >= simd::lanes ? simd::load(from) : simd::load(from, left);
        }
        simd::unrolled<R>([&](auto r) TESSERA_INLINE_LAMBDA { sum[r][v] = start; });
    });
    if (!block.read_c) return;
    simd::unrolled<R * V>([&](auto index) TESSERA_INLINE_LAMBDA {
        constexpr int r = index / V, v = index % V;
        const std::int64_t left = block.columns - column - v * simd::lanes;
        const std::int64_t offset = (row + r) * block.c_stride + column + v * simd::lanes;
        if (left > 0) sum[r][v] += load_c(block.c, block.output, offset, left);
    });
}

template <int R, int V, bool k_outer, class Arithmetic>
TESSERA_INLINE void multiply_tile(const MatmulBlock& block, const float* a, std::int64_t row, std::int64_t column) {
    simd::Floats sum[R][V];
    start_tile(block, row, column, sum);
    const float* b = block.b + column / panel_columns * block.b_panel_stride;
    const std::int64_t stride = block.a_order == TileOrder::packed ? R : block.a_stride;
    simd::multiply<R, V, k_outer, Arithmetic>(a, stride, b, panel_columns, block.words, sum);
    if (block.output == DType::f32 && block.columns - column >= V * simd::lanes) {
        float* c = static_cast<float*>(block.c) + row * block.c_stride + column;
        simd::unrolled<R * V>([&](auto index) TESSERA_INLINE_LAMBDA {
            simd::store(c + index / V * block.c_stride + index % V * simd::lanes, sum[index / V][index % V]);
        });
        return;
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) {
            const std::int64_t left = block.columns - column - v * simd::lanes;
            const std::int64_t offset = (row + r) * block.c_stride + column + v * simd::lanes;
            if (left > 0) store_c(block.c, block.output, offset, left, sum[r][v]);
        }
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

// A panel of b stays in the first cache while all rows pass by.
template <bool k_outer, class Arithmetic> TESSERA_INLINE void multiply_block(const MatmulBlock& block) {
    for (std::int64_t column = 0; column < block.columns; column += panel_columns) {
        if (block.columns - column > simd::lanes)
            multiply_panel<2, k_outer, Arithmetic>(block, column);
        else
            multiply_panel<1, k_outer, Arithmetic>(block, column);
    }
}

} // namespace tessera::kernels
