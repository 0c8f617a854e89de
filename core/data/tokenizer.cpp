// SPDX-License-Identifier: Apache-2.0
// The catalog of tokenizers, the byte tokenizer, and loading from JSON that nobody has checked before.
#include "core/data/tokenizer.hpp"

#include "core/data/bpe_tokenizer.hpp"
#include "core/data/character_tokenizer.hpp"
#include "core/data/utf8.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <array>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace tessera {
namespace {

using nlohmann::json;

constexpr std::size_t json_bytes_limit = std::size_t{16} << 20; // all of Unicode, or bpe_vocabulary_limit merges

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

const json& array_at(const json& object, const char* key) {
    const auto found = object.find(key);
    if (found == object.end() || !found->is_array())
        throw ConfigError(fmt::format("tokenizer: there is no array '{}'", key));
    return *found;
}

std::uint64_t id_of(const json& value, const char* key, std::size_t place) {
    if (!value.is_number_unsigned())
        throw ConfigError(fmt::format("tokenizer: entry {} of '{}' holds something that is no id", place, key));
    return value.get<std::uint64_t>();
}

std::unique_ptr<Tokenizer> load_byte(const json& /*object*/) { return std::make_unique<ByteTokenizer>(); }

std::unique_ptr<Tokenizer> load_character(const json& object) {
    const json& list = array_at(object, "code_points");
    std::vector<std::uint32_t> points;
    for (std::size_t i = 0; i < list.size(); ++i) {
        const std::uint64_t point = id_of(list[i], "code_points", i);
        if (!is_code_point(point)) throw ConfigError(fmt::format("tokenizer: {} is no Unicode code point", point));
        if (!points.empty() && point <= points.back())
            throw ConfigError(
                fmt::format("tokenizer: the code points must ascend, {} follows {}", point, points.back()));
        points.push_back(static_cast<std::uint32_t>(point));
    }
    if (points.empty()) throw ConfigError("tokenizer: 'code_points' is empty");
    return std::make_unique<CharacterTokenizer>(std::move(points));
}

std::unique_ptr<Tokenizer> load_bpe(const json& object) {
    const json& list = array_at(object, "merges");
    std::vector<TokenPair> merges;
    for (std::size_t i = 0; i < list.size(); ++i) {
        if (!list[i].is_array() || list[i].size() != 2)
            throw ConfigError(fmt::format("tokenizer: entry {} of 'merges' is no pair", i));
        const std::uint64_t first = id_of(list[i][0], "merges", i);
        const std::uint64_t second = id_of(list[i][1], "merges", i);
        const auto limit = static_cast<std::uint64_t>(bpe_vocabulary_limit); // so that both fit into 32 bits
        if (first >= limit || second >= limit)
            throw ConfigError(fmt::format("tokenizer: merge {} joins the tokens {} and {}", i, first, second));
        merges.push_back({static_cast<std::int32_t>(first), static_cast<std::int32_t>(second)});
    }
    return std::make_unique<BpeTokenizer>(std::move(merges));
}

std::unique_ptr<Tokenizer> train_byte(const TokenizerOptions& /*options*/, std::span<const NamedText> /*corpus*/) {
    return std::make_unique<ByteTokenizer>();
}

std::unique_ptr<Tokenizer> train_character(const TokenizerOptions& /*options*/, std::span<const NamedText> corpus) {
    return train_character_tokenizer(corpus);
}

std::unique_ptr<Tokenizer> train_bpe(const TokenizerOptions& options, std::span<const NamedText> corpus) {
    return std::make_unique<BpeTokenizer>(train_bpe_merges(options.vocabulary_size, corpus));
}

struct Kind {
    std::string_view name;
    const char* key; // what its JSON holds beside "kind"
    std::unique_ptr<Tokenizer> (*train)(const TokenizerOptions&, std::span<const NamedText>);
    std::unique_ptr<Tokenizer> (*load)(const json&);
};

constexpr std::array<Kind, 3> catalog = {{
    {"bpe", "merges", train_bpe, load_bpe},
    {"byte", nullptr, train_byte, load_byte},
    {"character", "code_points", train_character, load_character},
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
    if (text.size() > json_bytes_limit)
        throw ConfigError(
            fmt::format("tokenizer: {} bytes of JSON, at most {} are read", text.size(), json_bytes_limit));
    const json object = json::parse(text, nullptr, false); // no exceptions: a wrong text is `discarded`
    if (object.is_discarded()) throw ConfigError("tokenizer: the text is not JSON");
    if (!object.is_object()) throw ConfigError("tokenizer: the JSON is no object");
    const auto name = object.find("kind");
    if (name == object.end() || !name->is_string()) throw ConfigError("tokenizer: there is no string 'kind'");
    const Kind& kind = kind_named(name->get_ref<const std::string&>().substr(0, 40)); // nearest_name takes its square
    for (const auto& [key, value] : object.items())
        if (key != "kind" && (kind.key == nullptr || key != kind.key))
            throw ConfigError(fmt::format("tokenizer: unknown key '{:.40}' of the kind '{}'", key, kind.name));
    return kind.load(object);
}

std::unique_ptr<Tokenizer> train_tokenizer(const TokenizerOptions& options, std::span<const NamedText> corpus) {
    const Kind& kind = kind_named(options.kind);
    if (options.kind != "bpe" && options.vocabulary_size != 0)
        throw ConfigError(
            fmt::format("vocabulary_size is a choice for the tokenizer 'bpe' only; 'character' and 'byte' "
                        "have their own (found {} with '{}')",
                        options.vocabulary_size, options.kind));
    return kind.train(options, corpus);
}

std::unique_ptr<Tokenizer> train_tokenizer(const TokenizerOptions& options, std::string_view corpus) {
    const NamedText text{"corpus", corpus};
    return train_tokenizer(options, {&text, 1});
}

} // namespace tessera
