// SPDX-License-Identifier: Apache-2.0
// What kernels check of their views before they run, and the sentences that refuse them. Host code only.
#pragma once

#include "kernels/tensor.hpp"
#include "kernels/vocabulary_shard.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tessera::kernels {

// Throws InternalError "layer_norm: y has 12 elements, 16 are expected".
void check_count(std::string_view kernel, std::string_view name, const ConstView& view, std::int64_t count);

// Throws InternalError "adam: the weights are 3 tensors, 4 are expected".
void check_tensors(std::string_view kernel, std::string_view name, std::size_t found, std::size_t expected);

// Throws InternalError "add_rows: 5 elements are no multiple of a row of 4".
void check_rows(std::string_view kernel, const ConstView& x, const ConstView& row);

// Throws InternalError "dropout: a probability of 1.5, expected one in [0, 1]".
void check_probability(std::string_view kernel, float probability);

// How many of a shard's `count` rows or columns are classes; those behind are padding. Throws InternalError "embedding:
// a shard from -1 of 65 classes" for one that begins before the first class.
std::int64_t classes_in(std::string_view kernel, VocabularyShard shard, std::int64_t count);

// Throws InternalError "cross_entropy: 60 classes in rows of 50".
void check_row_classes(std::string_view kernel, std::int64_t classes, std::int64_t columns);

// Throws InternalError "layer_norm: a workspace of 64 bytes, 128 are needed".
void check_workspace(std::string_view kernel, const ConstView& workspace, std::int64_t bytes);

// Throws InternalError "gelu: element type i32, expected f32, bf16 or f16".
[[noreturn]] void refuse_dtype(std::string_view kernel, DType dtype);

// "token 70 at position 5 is outside the vocabulary of 65"
std::string outside_vocabulary(std::string_view name, std::int64_t number, std::int64_t position, std::int64_t size);

// Throws ConfigError with that sentence for the first number outside [0, size) that is not `allowed`. Host memory.
void check_classes(std::string_view name, ConstView numbers, std::int64_t size, std::int32_t allowed);

} // namespace tessera::kernels
