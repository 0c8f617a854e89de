// SPDX-License-Identifier: Apache-2.0
// Brings an operand of a product into panels: for each word of k, the elements of one panel side by side.
#include "kernels/cpu/matmul_block.hpp"
#include "kernels/cpu/tiles.hpp"

#include <algorithm>

namespace tessera::kernels {
namespace {

// Any operand, element by element.
void pack_elements(const MatmulOperand& operand, std::int64_t first_x, std::int64_t x_count, std::int64_t width,
                   std::int64_t first_word, std::int64_t words, float* to) {
    const auto offset = [&](std::int64_t x, std::int64_t k) {
        return operand.k_outer ? k * operand.x + x : x * operand.k + k;
    };
    for (std::int64_t word = first_word; word < first_word + words; ++word)
        for (std::int64_t x = 0; x < width; ++x, ++to) {
            *to = 0;
            if (x >= x_count) continue;
            if (operand.dtype == DType::f32) {
                *to = static_cast<const float*>(operand.data)[offset(first_x + x, word)];
                continue;
            }
            const auto* from = static_cast<const BFloat16*>(operand.data);
            if (!operand.pairs) {
                *to = static_cast<float>(from[offset(first_x + x, word)]);
                continue;
            }
            const std::uint32_t low = from[offset(first_x + x, 2 * word)].bits;
            const bool whole = 2 * word + 1 < operand.k;
            const std::uint32_t high = whole ? from[offset(first_x + x, 2 * word + 1)].bits : 0;
            *to = std::bit_cast<float>(low | high << 16);
        }
}

// (K, X) of floats: rows of the source are rows of the panel.
template <std::int64_t width>
TESSERA_INLINE void copy_rows(const float* from, std::int64_t stride, std::int64_t words, float* to) {
    for (std::int64_t word = 0; word < words; ++word)
        std::memcpy(to + word * width, from + word * stride, width * sizeof(float));
}

// (K, X) of bf16: two rows of the source, zipped, are a row of the panel. Whole vectors are moved, so that up to 15
// words behind each row, and behind the panel, are written too: the next row or panel mends them.
TESSERA_INLINE void zip_rows(const BFloat16* from, std::int64_t stride, std::int64_t width, std::int64_t words,
                             float* to) {
    for (std::int64_t word = 0; word < words; ++word)
        for (std::int64_t x = 0; x < width; x += simd::lanes) {
            simd::Halves low, high;
            std::memcpy(&low, from + 2 * word * stride + x, sizeof low);
            std::memcpy(&high, from + (2 * word + 1) * stride + x, sizeof high);
            const simd::Words zipped =
                __builtin_convertvector(low, simd::Words) | __builtin_convertvector(high, simd::Words) << 16;
            std::memcpy(to + word * width + x, &zipped, sizeof zipped);
        }
}

// (X, K), words along k: blocks of 16 by 16 are transposed in registers.
TESSERA_INLINE void transpose_words(const float* from, std::int64_t stride, std::int64_t x_count, std::int64_t width,
                                    std::int64_t words, float* to) {
    for (std::int64_t x = 0; x < width; x += simd::lanes)
        for (std::int64_t word = 0; word < words; word += simd::lanes) {
            const std::int64_t count = std::min<std::int64_t>(words - word, simd::lanes);
            simd::Floats block[simd::lanes];
            simd::unrolled<simd::lanes>([&](auto row) TESSERA_INLINE_LAMBDA {
                const float* source = from + (x + row) * stride + word;
                block[row] = simd::Floats{};
                if (x + row < x_count)
                    block[row] = count == simd::lanes ? simd::load(source) : simd::load(source, count);
            });
            simd::transpose(block);
            simd::unrolled<simd::lanes>([&](auto row) TESSERA_INLINE_LAMBDA {
                if (row < count) simd::store(to + (word + row) * width + x, block[row]);
            });
        }
}

} // namespace

TESSERA_MULTIVERSION void pack_panel(const MatmulOperand& operand, std::int64_t first_x, std::int64_t x_count,
                                     std::int64_t width, std::int64_t first_word, std::int64_t words, float* to) {
    if (operand.readable_in_place() && width % simd::lanes == 0) {
        const std::int64_t stride = operand.stride_words();
        const float* from = static_cast<const float*>(operand.data) + first_x * stride + first_word;
        return transpose_words(from, stride, x_count, width, words, to);
    }
    const bool whole_vectors = first_x + (width + simd::lanes - 1) / simd::lanes * simd::lanes <= operand.x;
    if (operand.k_outer && x_count == width && operand.dtype == DType::f32) {
        const float* from = static_cast<const float*>(operand.data) + first_word * operand.x + first_x;
        if (width == panel_columns) return copy_rows<panel_columns>(from, operand.x, words, to);
        if (width == tile_rows) return copy_rows<tile_rows>(from, operand.x, words, to);
        if (width == 8) return copy_rows<8>(from, operand.x, words, to);
        if (width == 4) return copy_rows<4>(from, operand.x, words, to);
    }
    if (operand.k_outer && whole_vectors && operand.pairs) {
        const std::int64_t whole = std::min(words, operand.k / 2 - first_word);
        const auto* from = static_cast<const BFloat16*>(operand.data) + 2 * first_word * operand.x + first_x;
        zip_rows(from, operand.x, width, whole, to);
        return pack_elements(operand, first_x, x_count, width, first_word + whole, words - whole, to + whole * width);
    }
    pack_elements(operand, first_x, x_count, width, first_word, words, to);
}

} // namespace tessera::kernels
