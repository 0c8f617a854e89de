// SPDX-License-Identifier: Apache-2.0
// Brings an operand of a product into panels: for each word of k, the elements of one panel side by side.
#include "kernels/cpu/matmul_block.hpp"
#include "kernels/cpu/tiles.hpp"
#include "kernels/float8.hpp"

#include <algorithm>
#include <array>

namespace tessera::kernels {
namespace {

// What the codes of an 8-bit type mean.
const std::array<float, 256>& values_of(DType dtype) {
    const auto all = []<class T>() {
        std::array<float, 256> values{};
        for (std::size_t code = 0; code < values.size(); ++code) {
            T number;
            number.bits = static_cast<std::uint8_t>(code);
            values[code] = static_cast<float>(number);
        }
        return values;
    };
    static const std::array<float, 256> e4m3 = all.template operator()<Float8E4M3>();
    static const std::array<float, 256> e5m2 = all.template operator()<Float8E5M2>();
    return dtype == DType::f8e4m3 ? e4m3 : e5m2;
}

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
            if (operand.dtype == DType::f16) {
                *to = static_cast<float>(static_cast<const Float16*>(operand.data)[offset(first_x + x, word)]);
                continue;
            }
            if (bytes_of(operand.dtype) == 1) {
                const std::uint8_t code = static_cast<const std::uint8_t*>(operand.data)[offset(first_x + x, word)];
                *to = values_of(operand.dtype)[code] * operand.factor;
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

// (K, X) of floats: rows of the source are rows of the panel. Whole vectors are moved, so that up to 15 words behind
// each row are read and written too: the next row or panel mends what was written.
TESSERA_INLINE void copy_rows(const float* from, std::int64_t stride, std::int64_t width, std::int64_t words,
                              float* to) {
    for (std::int64_t word = 0; word < words; ++word)
        for (std::int64_t x = 0; x < width; x += simd::lanes)
            simd::store(to + word * width + x, simd::load(from + word * stride + x));
}

// (K, X) of bf16: two rows of the source, zipped, are a row of the panel. The same holds for the words behind.
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

// (X, K), words along k: blocks of 16 by 16 are transposed in registers. Words beyond k are zero.
TESSERA_INLINE void transpose_words(const std::byte* from, std::int64_t stride_bytes, std::int64_t row_bytes,
                                    std::int64_t x_count, std::int64_t width, std::int64_t words, float* to) {
    constexpr std::int64_t vector_bytes = sizeof(simd::Floats), prefetch_bytes = 4 * vector_bytes;
    for (std::int64_t x = 0; x < width; x += simd::lanes)
        for (std::int64_t word = 0; word < words; word += simd::lanes) {
            const std::int64_t bytes = std::min<std::int64_t>(row_bytes - 4 * word, vector_bytes);
            simd::Floats block[simd::lanes];
            simd::unrolled<simd::lanes>([&](auto row) TESSERA_INLINE_LAMBDA {
                const std::byte* source = from + (x + row) * stride_bytes + 4 * word;
                block[row] = simd::Floats{};
                __builtin_prefetch(source + prefetch_bytes);
                if (x + row < x_count) {
                    if (bytes == vector_bytes)
                        std::memcpy(&block[row], source, vector_bytes);
                    else
                        std::memcpy(&block[row], source, static_cast<std::size_t>(bytes));
                }
            });
            simd::transpose(block);
            simd::unrolled<simd::lanes>([&](auto row) TESSERA_INLINE_LAMBDA {
                if (word + row < words) simd::store(to + (word + row) * width + x, block[row]);
            });
        }
}

} // namespace

TESSERA_MULTIVERSION void pack_panel(const MatmulOperand& operand, std::int64_t first_x, std::int64_t x_count,
                                     std::int64_t width, std::int64_t first_word, std::int64_t words, float* to) {
    const std::int64_t element_bytes = operand.dtype == DType::f32 ? 4 : 2;
    const std::int64_t elements_in_word = operand.pairs ? 2 : 1;
    const auto* data = static_cast<const std::byte*>(operand.data);
    if (operand.dtype != DType::f32 && !operand.pairs)
        return pack_elements(operand, first_x, x_count, width, first_word, words, to);
    if (!operand.k_outer) {
        const std::int64_t stride_bytes = operand.k * element_bytes;
        return transpose_words(data + first_x * stride_bytes + 4 * first_word, stride_bytes,
                               stride_bytes - 4 * first_word, x_count, width, words, to);
    }
    // How many words can be read in whole vectors without leaving the operand.
    const std::int64_t vectors_end = first_x + (width + simd::lanes - 1) / simd::lanes * simd::lanes;
    const std::int64_t spare = (operand.k - elements_in_word + 1) * operand.x - vectors_end;
    const std::int64_t readable = spare < 0 ? 0 : spare / operand.x / elements_in_word + 1 - first_word;
    const std::int64_t whole = std::clamp<std::int64_t>(readable, 0, words);
    const auto* from = data + (first_word * elements_in_word * operand.x + first_x) * element_bytes;
    if (operand.pairs)
        zip_rows(reinterpret_cast<const BFloat16*>(from), operand.x, width, whole, to);
    else
        copy_rows(reinterpret_cast<const float*>(from), operand.x, width, whole, to);
    pack_elements(operand, first_x, x_count, width, first_word + whole, words - whole, to + whole * width);
}

} // namespace tessera::kernels
