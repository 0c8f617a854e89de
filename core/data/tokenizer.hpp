// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back. A tokenizer is made from a corpus or loaded from a checkpoint, and never changes after.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// Ids that belong before and after a whole text: [CLS] … [SEP]. encode() does not put them there.
struct TokensAround {
    std::vector<std::int32_t> before, after;
};

// Ids run from 0 to vocabulary_size() - 1. All calls are thread-safe.
//   byte       256 ids, one per byte value. Takes any bytes.
//   word       the most frequent words of the corpus (core/data/word_tokenizer.hpp). Takes UTF-8 only, keeps no spaces.
//   character  the Unicode code points of the corpus in ascending order, as sorted(set(text)) in Python. Takes UTF-8
//   only.
//   bpe        byte pairs merged as in the training corpus (core/data/bpe_tokenizer.hpp). Takes any bytes. Trained, it
//              is a bpe_unicode; of files of earlier versions a bpe, whose pieces are others.
//   wordpiece  is trained here as BERT's (core/data/wordpiece_training.cpp), and then is a huggingface.
//   huggingface, sentencepiece  read from files of others (open). Take UTF-8 only.
class Tokenizer {
public:
    virtual ~Tokenizer() = default;

    virtual std::string_view kind() const = 0;
    virtual std::int64_t vocabulary_size() const = 0;

    // `source` opens error messages: the file the text came from. Throws ConfigError for a character that is not in the
    // vocabulary (character only) and for invalid UTF-8 (character, word), with the byte where it stands.
    virtual std::vector<std::int32_t> encode(std::string_view text, std::string_view source = "text") const = 0;

    // decode(encode(text)) == text, but for word, and for what a tokenizer from a file throws away (BERT's case, say).
    // Throws ConfigError for an id outside the vocabulary.
    virtual std::string decode(std::span<const std::int32_t> tokens) const = 0;

    // A JSON text (ASCII) from which load() makes an equal tokenizer.
    virtual std::string save() const = 0;

    // The id of "[MASK]", "<|endoftext|>", … by its name; nothing where there is no such token, or none has a name.
    virtual std::optional<std::int32_t> id_of(std::string_view /*token*/) const { return std::nullopt; }
    // What its file puts around a whole text.
    virtual TokensAround around() const { return {}; }

    // Takes text from anywhere: every size and id is checked, and ConfigError says what is wrong.
    static std::unique_ptr<Tokenizer> load(std::string_view json);

    // A file, or a folder with one of them: tokenizer.json (of Hugging Face, or what save() wrote), tokenizer.model or
    // spiece.model (SentencePiece), vocab.json with merges.txt beside it (GPT-2's), vocab.txt (BERT's; lower case
    // unless tokenizer_config.json beside it says "do_lower_case": false). Throws DataError with the path.
    static std::unique_ptr<Tokenizer> open(const std::string& path);
};

struct TokenizerOptions {
    std::string kind = "character"; // "bpe", "byte", "character", "word" or "wordpiece"
    // bpe: 256 bytes and vocabulary_size - 256 merges. word: <unk>, <eos> and vocabulary_size - 2 words; 0: all words.
    std::int64_t vocabulary_size = 0; // not of byte and character
};

// A text and what to call it in messages.
struct NamedText {
    std::string name;
    std::string_view text;
};

// Whether this is the name of a kind that train_tokenizer knows.
bool is_tokenizer_kind(std::string_view name);
// Whether tokenizers of this kind encode, and are trained on, any bytes: no UTF-8 is asked for.
bool takes_any_bytes(std::string_view kind);

// Deterministic. Throws ConfigError for an unknown kind, a vocabulary the corpus cannot give, or text it cannot take.
std::unique_ptr<Tokenizer> train_tokenizer(const TokenizerOptions& options, std::span<const NamedText> corpus);
std::unique_ptr<Tokenizer> train_tokenizer(const TokenizerOptions& options, std::string_view corpus);

} // namespace tessera
