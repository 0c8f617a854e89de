// SPDX-License-Identifier: Apache-2.0
// A checkpoint's tokenizer as the files that Hugging Face's libraries load beside a model.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera {

struct HubTokenizer {
    std::string_view model_type; // the family's
    std::int64_t length = 0;     // of the longest text that the model takes
    std::int64_t rows = 0;       // of the token table
};

// Writes tokenizer.json, or SentencePiece's model as it was, and tokenizer_config.json into `folder`. `saved` is what
// Tokenizer::save() wrote. Returns why nothing was written, for a kind that these libraries do not have; else nothing.
std::string write_hub_tokenizer(const std::string& saved, const HubTokenizer& of, const std::string& folder);

// The tokenizer.json of a saved one of any kind but sentencepiece; empty: that kind has none.
std::string hub_tokenizer_json(const std::string& saved);

} // namespace tessera
