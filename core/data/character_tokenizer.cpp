// SPDX-License-Identifier: Apache-2.0
// Ids are found in a table for the code points that most texts are made of, and by halves for all others: a table of
// all would be larger than many a vocabulary's file by far.
#include "core/data/character_tokenizer.hpp"

#include "core/data/data_error.hpp"
#include "core/data/utf8.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {

CharacterTokenizer::CharacterTokenizer(std::vector<std::uint32_t> code_points) : code_points_(std::move(code_points)) {
    first_.fill(-1);
    for (std::size_t id = 0; id < code_points_.size() && code_points_[id] < first_.size(); ++id)
        first_[code_points_[id]] = static_cast<std::int32_t>(id);
}

std::int32_t CharacterTokenizer::id_of(std::uint32_t code_point) const {
    if (code_point < first_.size()) return first_[code_point];
    const auto found = std::ranges::lower_bound(code_points_, code_point);
    if (found == code_points_.end() || *found != code_point) return -1;
    return static_cast<std::int32_t>(found - code_points_.begin());
}

std::vector<std::int32_t> CharacterTokenizer::encode(std::string_view text, std::string_view source) const {
    std::vector<std::int32_t> tokens;
    tokens.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        const std::optional<CodePoint> point = read_code_point(text, at);
        if (!point) throw ConfigError(invalid_utf8(source, text, at));
        const std::int32_t id = id_of(point->value);
        if (id < 0)
            throw ConfigError(fmt::format("{}: the character {} at byte {} is not in the vocabulary of {} characters",
                                          source, describe_code_point(point->value), at, code_points_.size()));
        tokens.push_back(id);
        at += point->bytes;
    }
    return tokens;
}

std::string CharacterTokenizer::decode(std::span<const std::int32_t> tokens) const {
    std::string text;
    text.reserve(tokens.size());
    for (const std::int32_t token : tokens) {
        if (token < 0 || token >= vocabulary_size())
            throw ConfigError(
                fmt::format("token {} is not in the vocabulary of {} characters", token, vocabulary_size()));
        append_utf8(text, code_points_[static_cast<std::size_t>(token)]);
    }
    return text;
}

std::string CharacterTokenizer::save() const {
    return fmt::format(R"({{"kind":"character","code_points":[{}]}})", fmt::join(code_points_, ","));
}

std::unique_ptr<Tokenizer> train_character_tokenizer(std::span<const NamedText> corpus) {
    std::vector<bool> seen(code_point_limit);
    for (const NamedText& text : corpus)
        for (std::size_t at = 0; at < text.text.size();) {
            const std::optional<CodePoint> point = read_code_point(text.text, at);
            if (!point) throw DataError(invalid_utf8(text.name, text.text, at));
            seen[point->value] = true;
            at += point->bytes;
        }
    std::vector<std::uint32_t> code_points;
    for (std::uint32_t point = 0; point < code_point_limit; ++point)
        if (seen[point]) code_points.push_back(point);
    if (code_points.empty()) throw DataError("a character tokenizer cannot be made from an empty corpus");
    return std::make_unique<CharacterTokenizer>(std::move(code_points));
}

} // namespace tessera
