// SPDX-License-Identifier: Apache-2.0
// The tokenizer.json that older files stand for.
#pragma once

#include "core/json_value.hpp"

#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::huggingface {

inline constexpr std::array<std::string_view, 5> bert_marks = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};

// BERT's: `tokens` by id.
JsonValue wordpiece_document(const std::vector<std::string>& tokens, bool lower_case);
// GPT-2's: `vocabulary` is the content of vocab.json, `merges` the lines of merges.txt.
JsonValue byte_level_document(const JsonValue& vocabulary, const std::vector<std::string>& merges);

} // namespace tessera::huggingface
