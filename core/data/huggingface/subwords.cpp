// SPDX-License-Identifier: Apache-2.0
// WordPiece (Schuster and Nakajima 2012) and whole words; byte pairs stand in byte_pairs.cpp.
#include "core/data/huggingface/subwords.hpp"

#include "core/data/huggingface/byte_pairs.hpp"
#include "core/data/huggingface/component.hpp"
#include "core/data/utf8.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <cmath>
#include <fmt/format.h>

namespace tessera::huggingface {
namespace {

std::int32_t unknown_of(const JsonValue& model, const Vocabulary& vocabulary, std::string_view otherwise) {
    const std::string unknown = text_of(model, "unk_token", otherwise);
    const auto found = vocabulary.find(unknown);
    if (found == vocabulary.end())
        throw ConfigError(fmt::format("tokenizer: the unknown token '{:.40}' is not in the vocabulary", unknown));
    return found->second;
}

// The longest beginning of a word that is in the vocabulary, then the longest of the rest, …
class WordPieces final : public Subwords {
public:
    WordPieces(const JsonValue& model, const Vocabulary& vocabulary)
        : vocabulary_(vocabulary), unknown_(unknown_of(model, vocabulary, "[UNK]")),
          prefix_(text_of(model, "continuing_subword_prefix", "##")) {
        const JsonValue* most = present(model.find("max_input_chars_per_word"));
        if (most != nullptr) longest_word_ = most->number;
        for (const auto& [token, id] : vocabulary)
            longest_token_ = std::max(longest_token_, token.size());
    }

    void append(std::string_view word, std::vector<std::int32_t>& ids) const override {
        const std::size_t before = ids.size();
        double characters = 0;
        for (const char byte : word)
            characters += (byte & 0xC0) != 0x80 ? 1 : 0;
        bool known = characters <= longest_word_;
        std::string candidate;
        for (std::size_t begin = 0; known && begin < word.size();) {
            candidate = begin > 0 ? prefix_ : "";
            const std::size_t extra = candidate.size();
            candidate += word.substr(begin, longest_token_);
            std::int32_t id = -1;
            for (; candidate.size() > extra; candidate.pop_back()) {
                const std::size_t end = begin + candidate.size() - extra;
                if (end < word.size() && (word[end] & 0xC0) == 0x80) continue; // in the middle of a code point
                const auto found = vocabulary_.find(candidate);
                if (found == vocabulary_.end()) continue;
                id = found->second;
                break;
            }
            known = id >= 0;
            ids.push_back(id);
            begin += candidate.size() - extra;
        }
        if (known) return;
        ids.resize(before);
        ids.push_back(unknown_);
    }

private:
    const Vocabulary& vocabulary_;
    std::int32_t unknown_;
    std::string prefix_;
    double longest_word_ = 100;     // in code points
    std::size_t longest_token_ = 0; // in bytes
};

class WholeWords final : public Subwords {
public:
    WholeWords(const JsonValue& model, const Vocabulary& vocabulary)
        : vocabulary_(vocabulary), unknown_(unknown_of(model, vocabulary, "<unk>")) {}
    void append(std::string_view word, std::vector<std::int32_t>& ids) const override {
        const auto found = vocabulary_.find(word);
        ids.push_back(found == vocabulary_.end() ? unknown_ : found->second);
    }

private:
    const Vocabulary& vocabulary_;
    std::int32_t unknown_;
};

} // namespace

Vocabulary vocabulary_of(const JsonValue& model) {
    const JsonValue* entries = model.find("vocab");
    if (entries == nullptr || !entries->is(JsonValue::Kind::object))
        throw ConfigError("tokenizer: the model has no object 'vocab'");
    Vocabulary vocabulary;
    vocabulary.reserve(entries->items.size());
    for (std::size_t i = 0; i < entries->items.size(); ++i) {
        const JsonValue& id = entries->items[i];
        if (!id.is(JsonValue::Kind::number) || id.number < 0 || id.number >= static_cast<double>(vocabulary_limit) ||
            id.number != std::floor(id.number))
            throw ConfigError(fmt::format("tokenizer: the id of '{:.40}' is no number from 0 to {}", entries->names[i],
                                          vocabulary_limit - 1));
        vocabulary.insert_or_assign(entries->names[i], static_cast<std::int32_t>(id.number));
    }
    return vocabulary;
}

std::unique_ptr<Subwords> make_subwords(const JsonValue& model, const Vocabulary& vocabulary) {
    const JsonValue* type = present(model.find("type")); // old files have none: they are BPE where there are merges
    const std::string name = type != nullptr ? type_of(model) : model.find("merges") != nullptr ? "BPE" : "WordPiece";
    if (name == "BPE") return make_byte_pairs(model, vocabulary);
    if (name == "WordPiece") return std::make_unique<WordPieces>(model, vocabulary);
    if (name == "WordLevel") return std::make_unique<WholeWords>(model, vocabulary);
    if (name == "Unigram")
        throw ConfigError(
            "tokenizer: the model 'Unigram' is SentencePiece's: name its model (spiece.model or tokenizer.model) "
            "instead of tokenizer.json");
    throw ConfigError("tokenizer: " + no_such_name("model", name, {"BPE", "WordLevel", "WordPiece"}));
}

} // namespace tessera::huggingface
