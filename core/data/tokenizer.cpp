// SPDX-License-Identifier: Apache-2.0
// The catalog of tokenizers, the byte tokenizer, and loading from JSON that nobody has checked before.
#include "core/data/tokenizer.hpp"

#include "core/data/bpe_tokenizer.hpp"
#include "core/data/character_tokenizer.hpp"
#include "core/data/huggingface/tokenizer.hpp"
#include "core/data/sentencepiece_tokenizer.hpp"
#include "core/data/utf8.hpp"
#include "core/data/word_tokenizer.hpp"
#include "core/data/wordpiece_training.hpp"
#include "core/json.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <optional>

namespace tessera {
namespace {

constexpr std::size_t json_bytes_limit = std::size_t{16} << 20; // all of Unicode, or bpe_vocabulary_limit merges
constexpr std::size_t huggingface_bytes_limit = std::size_t{128} << 20;

class ByteTokenizer final : public Tokenizer {
public:
    std::string_view kind() const override { return "byte"; }
    std::int64_t vocabulary_size() const override { return 256; }

    std::vector<std::int32_t> encode(std::string_view text, std::string_view /*source*/) const override {
        std::vector<std::int32_t> tokens(text.size());
        for (std::size_t i = 0; i < text.size(); ++i)
            tokens[i] = static_cast<unsigned char>(text[i]);
        return tokens;
    }

    std::string decode(std::span<const std::int32_t> tokens) const override {
        std::string text;
        text.reserve(tokens.size());
        for (const std::int32_t token : tokens) {
            if (token < 0 || token > 255) throw ConfigError(fmt::format("token {} is not one of the 256 bytes", token));
            text.push_back(static_cast<char>(token));
        }
        return text;
    }

    std::string save() const override { return R"({"kind":"byte"})"; }
};

// What a tokenizer's JSON holds, taken as it is read: no more memory than the lists themselves.
class TokenizerText final : public JsonReader {
public:
    explicit TokenizerText(std::size_t bytes) {
        points_.reserve(bytes / 2); // "1," is the shortest entry
        merges_.reserve(bytes / 6); // "[1,2],"
    }

    void begin_object() override {
        if (depth_ > 0) other();
        ++depth_;
    }
    void end_object() override { --depth_; }
    void key(std::string_view name) override {
        if (depth_ != 1) return;
        key_ = name.substr(0, 41);
        if (key_ == "kind") return;
        if (has(key_)) throw ConfigError(fmt::format("tokenizer: the key '{:.40}' stands there twice", key_));
        keys_.push_back(key_);
        if (keys_.size() > 4) throw ConfigError("tokenizer: has more keys than any kind");
    }
    void begin_array() override {
        ++depth_;
        if (depth_ == 1) throw ConfigError("tokenizer: the JSON is no object");
        if (depth_ == 2) entries_ = 0;
        if (depth_ == 2 && (is_points() || is_merges() || is_words())) lists_.push_back(key_);
        if (depth_ == 3 && is_merges()) pair_ = 0;
        if (depth_ == 3 && is_points()) refuse_entry("holds something that is no id");
        if (depth_ == 3 && is_words()) refuse_entry("is no word");
        if (depth_ == 4 && is_merges()) refuse_entry("holds something that is no id");
    }
    void end_array() override {
        if (depth_ == 3 && is_merges()) take_pair();
        --depth_;
    }
    void text(std::string_view value) override {
        if (depth_ == 1 && key_ == "kind") kind_ = value.substr(0, 40); // nearest_name takes its square
        if (depth_ == 2 && is_words()) return take_word(value);
        other();
    }
    void number(std::uint64_t value) override {
        if (depth_ == 2 && is_points()) {
            take_point(value);
        } else if (depth_ == 3 && is_merges()) {
            if (pair_ < 2) both_[pair_] = value;
            ++pair_;
        } else {
            other();
        }
    }
    void other() override {
        if (depth_ == 0) throw ConfigError("tokenizer: the JSON is no object");
        if (depth_ == 2 && is_merges()) refuse_entry("is no pair");
        if (depth_ == 2 && is_words()) refuse_entry("is no word");
        if ((depth_ == 2 && is_points()) || (depth_ == 3 && is_merges())) refuse_entry("holds something that is no id");
    }

    bool has(std::string_view key) const { return std::find(keys_.begin(), keys_.end(), key) != keys_.end(); }
    const std::optional<std::string>& kind() const { return kind_; }
    const std::vector<std::string>& keys() const { return keys_; } // beside "kind", cut after 41 letters
    void expect_list(const char* key) const {
        if (std::find(lists_.begin(), lists_.end(), key) == lists_.end())
            throw ConfigError(fmt::format("tokenizer: there is no array '{}'", key));
    }
    std::vector<std::uint32_t>& points() { return points_; }
    std::vector<TokenPair>& merges() { return merges_; }
    std::vector<std::string>& words() { return words_; }

private:
    bool is_points() const { return key_ == "code_points"; }
    bool is_merges() const { return key_ == "merges"; }
    bool is_words() const { return key_ == "words"; }
    [[noreturn]] void refuse_entry(const char* reason) const {
        throw ConfigError(fmt::format("tokenizer: entry {} of '{}' {}", entries_, key_, reason));
    }

    void take_point(std::uint64_t point) {
        ++entries_;
        if (!is_code_point(point)) throw ConfigError(fmt::format("tokenizer: {} is no Unicode code point", point));
        if (!points_.empty() && point <= points_.back())
            throw ConfigError(
                fmt::format("tokenizer: the code points must ascend, {} follows {}", point, points_.back()));
        points_.push_back(static_cast<std::uint32_t>(point));
    }

    void take_word(std::string_view word) {
        if (word.empty()) refuse_entry("is no word");
        words_.emplace_back(word);
        ++entries_;
    }

    void take_pair() {
        if (pair_ != 2) refuse_entry("is no pair");
        const auto [first, second] = both_;
        const auto limit = static_cast<std::uint64_t>(bpe_vocabulary_limit); // so that both fit into 32 bits
        if (first >= limit || second >= limit)
            throw ConfigError(fmt::format("tokenizer: merge {} joins the tokens {} and {}", entries_, first, second));
        merges_.push_back({static_cast<std::int32_t>(first), static_cast<std::int32_t>(second)});
        ++entries_;
    }

    int depth_ = 0;
    std::string key_; // of depth 1
    std::optional<std::string> kind_;
    std::vector<std::string> keys_, lists_;
    std::vector<std::uint32_t> points_;
    std::vector<TokenPair> merges_;
    std::vector<std::string> words_;
    std::size_t entries_ = 0, pair_ = 0; // of the list, of a pair
    std::array<std::uint64_t, 2> both_{};
};

std::unique_ptr<Tokenizer> load_byte(TokenizerText&) { return std::make_unique<ByteTokenizer>(); }

std::unique_ptr<Tokenizer> load_character(TokenizerText& text) {
    text.expect_list("code_points");
    if (text.points().empty()) throw ConfigError("tokenizer: 'code_points' is empty");
    text.points().shrink_to_fit();
    return std::make_unique<CharacterTokenizer>(std::move(text.points()));
}

template <BpePieces pieces> std::unique_ptr<Tokenizer> load_bpe(TokenizerText& text) {
    text.expect_list("merges");
    text.merges().shrink_to_fit();
    return std::make_unique<BpeTokenizer>(std::move(text.merges()), pieces);
}

std::unique_ptr<Tokenizer> load_word(TokenizerText& text) {
    text.expect_list("words");
    std::vector<std::string>& words = text.words();
    if (words.size() < 2 || words[0] != "<unk>" || words[1] != "<eos>")
        throw ConfigError("tokenizer: 'words' does not begin with <unk> and <eos>");
    std::vector<std::string_view> sorted(words.begin(), words.end());
    std::ranges::sort(sorted);
    if (const auto twice = std::ranges::adjacent_find(sorted); twice != sorted.end())
        throw ConfigError(fmt::format("tokenizer: the word '{:.40}' stands there twice", *twice));
    return std::make_unique<WordTokenizer>(std::move(words));
}

std::unique_ptr<Tokenizer> train_byte(const TokenizerOptions& /*options*/, std::span<const NamedText> /*corpus*/) {
    return std::make_unique<ByteTokenizer>();
}

std::unique_ptr<Tokenizer> train_character(const TokenizerOptions& /*options*/, std::span<const NamedText> corpus) {
    return train_character_tokenizer(corpus);
}

std::unique_ptr<Tokenizer> train_bpe(const TokenizerOptions& options, std::span<const NamedText> corpus) {
    return std::make_unique<BpeTokenizer>(train_bpe_merges(options.vocabulary_size, corpus, BpePieces::unicode),
                                          BpePieces::unicode);
}

std::unique_ptr<Tokenizer> train_word(const TokenizerOptions& options, std::span<const NamedText> corpus) {
    return train_word_tokenizer(options.vocabulary_size, corpus);
}

std::unique_ptr<Tokenizer> train_wordpiece(const TokenizerOptions& options, std::span<const NamedText> corpus) {
    return std::make_unique<huggingface::JsonTokenizer>(train_wordpiece_json(options.vocabulary_size, corpus));
}

struct Kind {
    std::string_view name;
    const char* key; // what its JSON holds beside "kind"
    std::unique_ptr<Tokenizer> (*train)(const TokenizerOptions&, std::span<const NamedText>);
    std::unique_ptr<Tokenizer> (*load)(TokenizerText&);
};

constexpr std::array<Kind, 6> catalog = {{
    {"bpe", "merges", train_bpe, load_bpe<BpePieces::ascii>}, // what is trained is saved as a bpe_unicode
    {"bpe_unicode", "merges", train_bpe, load_bpe<BpePieces::unicode>},
    {"byte", nullptr, train_byte, load_byte},
    {"character", "code_points", train_character, load_character},
    {"word", "words", train_word, load_word},
    {"wordpiece", nullptr, train_wordpiece, nullptr}, // is saved as a huggingface
}};

const Kind& kind_named(std::string_view name) {
    std::vector<std::string_view> names;
    for (const Kind& kind : catalog) {
        if (kind.name == name) return kind;
        names.push_back(kind.name);
    }
    throw ConfigError(no_such_name("tokenizer", name, names));
}

} // namespace

std::unique_ptr<Tokenizer> Tokenizer::load(std::string_view text) {
    if (text.starts_with(R"({"kind":"huggingface")")) {
        if (text.size() > huggingface_bytes_limit)
            throw ConfigError(
                fmt::format("tokenizer: {} bytes of JSON, at most {} are read", text.size(), huggingface_bytes_limit));
        return std::make_unique<huggingface::JsonTokenizer>(parse_json(text, "tokenizer"));
    }
    if (text.starts_with(R"({"kind":"sentencepiece")")) return load_saved_sentencepiece(text);
    if (text.size() > json_bytes_limit)
        throw ConfigError(
            fmt::format("tokenizer: {} bytes of JSON, at most {} are read", text.size(), json_bytes_limit));
    TokenizerText found(text.size());
    read_json(text, "tokenizer", found);
    if (!found.kind()) throw ConfigError("tokenizer: there is no string 'kind'");
    const Kind& kind = kind_named(*found.kind());
    for (const std::string& key : found.keys())
        if (kind.key == nullptr || key != kind.key)
            throw ConfigError(fmt::format("tokenizer: unknown key '{:.40}' of the kind '{}'", key, kind.name));
    if (kind.load == nullptr)
        throw ConfigError(fmt::format("tokenizer: the kind '{}' is not saved by this name", kind.name));
    return kind.load(found);
}

bool is_tokenizer_kind(std::string_view name) { return std::ranges::find(catalog, name, &Kind::name) != catalog.end(); }

bool takes_any_bytes(std::string_view kind) { return kind == "byte" || kind == "bpe" || kind == "bpe_unicode"; }

std::unique_ptr<Tokenizer> train_tokenizer(const TokenizerOptions& options, std::span<const NamedText> corpus) {
    const Kind& kind = kind_named(options.kind);
    const bool has_own = options.kind == "byte" || options.kind == "character";
    if (has_own && options.vocabulary_size != 0)
        throw ConfigError(
            fmt::format("vocabulary_size is a choice for the tokenizers 'bpe', 'word' and 'wordpiece' only; "
                        "'character' and 'byte' have their own (found {} with '{}')",
                        options.vocabulary_size, options.kind));
    return kind.train(options, corpus);
}

std::unique_ptr<Tokenizer> train_tokenizer(const TokenizerOptions& options, std::string_view corpus) {
    const NamedText text{"corpus", corpus};
    return train_tokenizer(options, {&text, 1});
}

} // namespace tessera
