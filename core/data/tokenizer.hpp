// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back. A tokenizer is made from a corpus or loaded from a checkpoint, and never changes after.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// Ids run from 0 to vocabulary_size() - 1. All calls are thread-safe.
//   byte       256 ids, one per byte value. Takes any bytes.
//   character  the Unicode code points of the corpus in ascending order, as sorted(set(text)) in Python. Takes UTF-8
//   only. bpe        byte pairs merged as in the training corpus (core/data/bpe_tokenizer.hpp). Takes any bytes.
class Tokenizer {
public:
    virtual ~Tokenizer() = default;

    virtual std::string_view kind() const = 0;
    virtual std::int64_t vocabulary_size() const = 0;

    // `source` opens error messages: the file the text came from. Throws ConfigError for a character that is not in the
    // vocabulary and for invalid UTF-8 (character only), with the byte where it stands.
    virtual std::vector<std::int32_t> encode(std::string_view text, std::string_view source = "text") const = 0;

    // decode(encode(text)) == text. Throws ConfigError for an id outside the vocabulary.
    virtual std::string decode(std::span<const std::int32_t> tokens) const = 0;

    // A JSON text (ASCII) from which load() makes an equal tokenizer.
    virtual std::string save() const = 0;

    // Takes text from anywhere: every size and id is checked, and ConfigError says what is wrong.
    static std::unique_ptr<Tokenizer> load(std::string_view json);
};

struct TokenizerOptions {
    std::string kind = "character";   // "bpe", "byte" or "character"
    std::int64_t vocabulary_size = 0; // bpe only: 256 bytes and vocabulary_size - 256 merges
};

// A text and what to call it in messages.
struct NamedText {
    std::string name;
    std::string_view text;
};

// Deterministic. Throws ConfigError for an unknown kind, a vocabulary the corpus cannot give, or text it cannot take.
std::unique_ptr<Tokenizer> train_tokenizer(const TokenizerOptions& options, std::span<const NamedText> corpus);
std::unique_ptr<Tokenizer> train_tokenizer(const TokenizerOptions& options, std::string_view corpus);

} // namespace tessera
