// SPDX-License-Identifier: Apache-2.0
// A tokenizer from Hugging Face's tokenizer.json: added tokens, normalizer, pre-tokenizer, model, decoder. Gives the
// ids of their library `tokenizers`; what it cannot do as they do is refused when it is loaded.
#pragma once

#include "core/data/huggingface/added_tokens.hpp"
#include "core/data/huggingface/joiner.hpp"
#include "core/data/huggingface/splitter.hpp"
#include "core/data/huggingface/subwords.hpp"
#include "core/data/tokenizer.hpp"

namespace tessera::huggingface {

class JsonTokenizer final : public Tokenizer {
public:
    explicit JsonTokenizer(JsonValue root); // the file's; throws ConfigError

    std::string_view kind() const override { return "huggingface"; }
    std::int64_t vocabulary_size() const override { return static_cast<std::int64_t>(tokens_.size()); }
    std::vector<std::int32_t> encode(std::string_view text, std::string_view source) const override;
    std::string decode(std::span<const std::int32_t> tokens) const override;
    std::string save() const override; // the file on one line, "kind": "huggingface" its first member
    std::optional<std::int32_t> id_of(std::string_view token) const override;
    TokensAround around() const override { return around_; }

private:
    void name_tokens(const std::vector<AddedToken>& added);
    void read_around();
    void append_text(std::string_view text, bool first, std::vector<std::int32_t>& ids) const;

    std::unique_ptr<const JsonValue> root_; // views of it stand in what follows
    Vocabulary vocabulary_;                 // of the model
    std::vector<std::string> tokens_;       // by id; empty: no token has it
    Normalizer normalizer_;
    AddedTokens before_, after_; // the normalizer
    Splitter splitter_;
    std::unique_ptr<Subwords> model_;
    Joiner joiner_;
    TokensAround around_;
};

} // namespace tessera::huggingface
