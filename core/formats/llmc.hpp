// SPDX-License-Identifier: Apache-2.0
// The model files of llm.c (github.com/karpathy/llm.c): a GPT-2 as 256 int32 of header, then its weights. Header: magic
// 20240326; version 3 (f32) or 5 (bf16); tokens of a sequence, vocabulary, layers, heads, channels, and rows of the
// token table, padded to a multiple of 128. Weights: token table, position table, then kind after kind of all layers,
// as (out, in); all little-endian.
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/config.hpp"
#include "core/formats/weight_file.hpp"

#include <optional>
#include <string>

namespace tessera {

inline constexpr std::int32_t llmc_model_magic = 20240326;

// Names and shapes are those of a checkpoint here; the token table has `vocabulary` rows, its padding is left out.
// Takes any file: ConfigError when header and size do not fit together.
WeightFile open_llmc(const std::string& path);

// Writes the weights as f32, or as bf16 if `narrow` says so. ConfigError with the key's place when `config`, the
// checkpoint's, says something that llm.c does not compute: it has biases, layer_norm, gelu_tanh, a tied head, and an
// MLP four times as wide as the model.
void write_llmc(const Checkpoint& checkpoint, const Config& config, const std::string& path,
                std::optional<DType> narrow);

} // namespace tessera
