// SPDX-License-Identifier: Apache-2.0
// What matmul.cpp (partition, cache blocks, threads) asks of the loops below it: bring operands into panels, and
// multiply a block of panels. Operands are seen as 32-bit words along k: one f32, or a pair of bf16.
#pragma once

#include "kernels/tensor.hpp"

namespace tessera::kernels {

inline constexpr int tile_rows = 12;
inline constexpr int panel_columns = 32;

// How many rows the next tile takes: 12 as far as that goes, then 8, 4, 2 and 1; 16 are left as 8 and 8.
inline int next_tile_rows(std::int64_t rows_left) {
    if (rows_left >= tile_rows && rows_left != 16) return tile_rows;
    return rows_left >= 8 ? 8 : rows_left >= 4 ? 4 : rows_left >= 2 ? 2 : 1;
}

// One operand: x is its dim beside k (m of a, n of b).
struct MatmulOperand {
    const void* data;
    std::int64_t x, k;
    bool k_outer; // stored as (K, X), otherwise (X, K)
    DType dtype;
    bool pairs; // a word is a pair of bf16; otherwise one float, to which bf16 is converted
    std::int64_t words() const { return pairs ? (k + 1) / 2 : k; }
    // Whether its memory can be read in place, word by word along k.
    bool readable_in_place() const { return !k_outer && (pairs ? k % 2 == 0 : dtype == DType::f32); }
    std::int64_t stride_words() const { return pairs ? k / 2 : k; }
};

// to[(word - first_word) * width + (x - first_x)] = operand(x, word) for x_count <= width; zeros beyond x_count.
// Packs in ascending order of `to`: up to 15 words behind the panel may be written with anything.
void pack_panel(const MatmulOperand& operand, std::int64_t first_x, std::int64_t x_count, std::int64_t width,
                std::int64_t first_word, std::int64_t words, float* to);

// c (rows, columns) = [c] [+ bias] + a b over `words`
struct MatmulBlock {
    const float* a;        // in place, or tiles of rows packed one behind the other
    std::int64_t a_stride; // words from row to row in place
    bool a_packed;
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
