// SPDX-License-Identifier: Apache-2.0
// What matmul.cpp (partition, cache blocks, threads) asks of the loops below it: bring operands into panels, and
// multiply a block of panels. Operands are seen as 32-bit words along k: one f32, or a pair of bf16.
#pragma once

#include "kernels/tensor.hpp"

namespace tessera::kernels {

inline constexpr int tile_rows = 12;
inline constexpr int panel_columns = 32;

// How many rows the next tile takes when so many are left: 12 while there are many, and near the end such that no tile
// is left with a few rows only, whose sums would wait for each other.
inline int next_tile_rows(std::int64_t rows_left) {
    constexpr int last_tiles[] = {1, 2, 2, 4, 4, 6, 6, 8, 9, 10, 9, 12, 9, 8, 9, 8, 9, 12, 10, 12, 12, 12, 9};
    return rows_left > 23 ? tile_rows : last_tiles[rows_left - 1];
}

// One operand: x is its dim beside k (m of a, n of b).
struct MatmulOperand {
    const void* data;
    std::int64_t x, k;
    bool k_outer; // stored as (K, X), otherwise (X, K)
    DType dtype;
    bool pairs;       // a word is a pair of bf16; otherwise one float, to which narrow types are converted
    float factor = 1; // of every element; other than 1 of 8 bits only
    std::int64_t words() const { return pairs ? (k + 1) / 2 : k; }
    // Words from one x (or, with k_outer, one k) to the next, where tiles of a can be read in place; otherwise 0.
    std::int64_t stride_in_place() const {
        if (!pairs) return dtype == DType::f32 ? (k_outer ? x : k) : 0;
        return !k_outer && k % 2 == 0 ? k / 2 : 0;
    }
};

// to[(word - first_word) * width + (x - first_x)] = operand(x, word) for x_count <= width; anything beyond x_count.
// Packs in ascending order of `to`: up to 15 words behind the panel may be written with anything.
void pack_panel(const MatmulOperand& operand, std::int64_t first_x, std::int64_t x_count, std::int64_t width,
                std::int64_t first_word, std::int64_t words, float* to);

enum class TileOrder {
    rows,    // a(row, k) = a[row * stride + k]
    columns, // a(row, k) = a[k * stride + row]
    packed,  // tiles one behind the other, in each a(row, k) = a[k * rows + row]
};

// c (rows, columns) = [c] [+ bias] + a b over `words`
struct MatmulBlock {
    const float* a;
    std::int64_t a_stride; // words; not of packed tiles
    TileOrder a_order;
    const float* b;              // packed panels of 32 columns
    std::int64_t b_panel_stride; // words from panel to panel
    std::int64_t rows, columns, words;
    const float* bias; // null: none
    bool read_c;
    void* c;
    std::int64_t c_stride; // elements from row to row
    DType output;
};

void multiply_block_f32(const MatmulBlock& block);
void multiply_block_bf16(const MatmulBlock& block); // words are pairs; only where has_bf16_instructions()
bool has_bf16_instructions();

} // namespace tessera::kernels
