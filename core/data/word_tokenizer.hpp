// SPDX-License-Identifier: Apache-2.0
// One id for each of the most frequent words of the training corpus; any other word is <unk>, the end of a line <eos>.
#pragma once

#include "core/data/tokenizer.hpp"

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tessera {

// A word is a run of letters, digits, underscores and characters beyond ASCII, joined by single apostrophes and hyphens
// ("king's", "fruit-tree"); any other visible character, dashes and quotes beyond ASCII among them, is a word of its
// own, and so is a "<unk>" of the text. Spaces only separate: decode puts single ones between words, but none before a
// mark that closes or behind one that opens.
class WordTokenizer final : public Tokenizer {
public:
    static constexpr std::int32_t unknown = 0, end_of_line = 1;

    // By id: "<unk>", "<eos>" and words, each once: checked by who calls (training and load do).
    explicit WordTokenizer(std::vector<std::string> words);

    std::string_view kind() const override { return "word"; }
    std::int64_t vocabulary_size() const override { return static_cast<std::int64_t>(words_.size()); }
    std::vector<std::int32_t> encode(std::string_view text, std::string_view source) const override;
    std::string decode(std::span<const std::int32_t> tokens) const override;
    std::string save() const override; // {"kind": "word", "words": ["<unk>", "<eos>", "the", …]}

private:
    std::vector<std::string> words_;
    std::unordered_map<std::string_view, std::int32_t> ids_; // of words_'s memory
};

// The `vocabulary` - 2 most frequent words, equals in the order of their bytes; 0: all.
std::unique_ptr<Tokenizer> train_word_tokenizer(std::int64_t vocabulary, std::span<const NamedText> corpus);

} // namespace tessera
