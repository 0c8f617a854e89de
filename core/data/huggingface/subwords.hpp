// SPDX-License-Identifier: Apache-2.0
// The models of a tokenizer.json: a piece of text becomes ids of a vocabulary.
#pragma once

#include "core/json_value.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tessera::huggingface {

using Vocabulary = std::unordered_map<std::string_view, std::int32_t>;

inline constexpr std::int64_t vocabulary_limit = 1 << 21;

// Thread-safe.
class Subwords {
public:
    virtual ~Subwords() = default;
    // `piece` is valid UTF-8 and not empty. What the model cannot say is its unknown token, or nothing without one.
    virtual void append(std::string_view piece, std::vector<std::int32_t>& ids) const = 0;
};

// {"[UNK]": 0, …}; the views are of `model`. Throws ConfigError where an id is none, or beyond any vocabulary.
Vocabulary vocabulary_of(const JsonValue& model);

// `model` is the "model" of the file; it and the vocabulary outlive what is made. Throws ConfigError for a type that is
// not known, or a part that is not right.
std::unique_ptr<Subwords> make_subwords(const JsonValue& model, const Vocabulary& vocabulary);

} // namespace tessera::huggingface
