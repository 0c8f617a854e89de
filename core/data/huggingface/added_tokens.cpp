// SPDX-License-Identifier: Apache-2.0
#include "core/data/huggingface/added_tokens.hpp"

#include "core/data/huggingface/component.hpp"
#include "core/data/huggingface/subwords.hpp"
#include "core/data/unicode.hpp"
#include "core/data/utf8.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>

namespace tessera::huggingface {
namespace {

std::uint32_t point_before(std::string_view text, std::size_t end) {
    std::size_t begin = end - 1;
    while (begin > 0 && (text[begin] & 0xC0) == 0x80)
        --begin;
    return read_code_point(text, begin)->value;
}

std::size_t space_before(std::string_view text, std::size_t end, std::size_t least) {
    while (end > least && is_white_space(point_before(text, end))) {
        --end;
        while (end > least && (text[end] & 0xC0) == 0x80)
            --end;
    }
    return end;
}

std::size_t space_after(std::string_view text, std::size_t begin) {
    while (begin < text.size()) {
        const CodePoint here = *read_code_point(text, begin);
        if (!is_white_space(here.value)) break;
        begin += here.bytes;
    }
    return begin;
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
    return (begin == 0 || !is_word(point_before(text, begin))) &&
           (end == text.size() || !is_word(read_code_point(text, end)->value));
}

} // namespace

std::vector<AddedToken> added_tokens_of(const JsonValue& root) {
    std::vector<AddedToken> tokens;
    if (present(root.find("added_tokens")) == nullptr) return tokens;
    for (const JsonValue& entry : list_of(root, "added_tokens").items) {
        const JsonValue* id = entry.find("id");
        AddedToken token;
        token.content = text_of(entry, "content", "");
        if (id == nullptr || !id->is(JsonValue::Kind::number) || id->number < 0 ||
            id->number >= static_cast<double>(vocabulary_limit) || id->number != std::floor(id->number) ||
            token.content.empty())
            throw ConfigError(
                fmt::format("tokenizer: entry {} of 'added_tokens' has no content or no id", tokens.size()));
        token.id = static_cast<std::int32_t>(id->number);
        token.single_word = truth_of(entry, "single_word", false);
        token.left = truth_of(entry, "lstrip", false);
        token.right = truth_of(entry, "rstrip", false);
        token.normalized = truth_of(entry, "normalized", !truth_of(entry, "special", false));
        tokens.push_back(std::move(token));
    }
    return tokens;
}

AddedTokens::AddedTokens(const std::vector<AddedToken>& tokens, bool normalized, const Normalizer& normalizer) {
    for (AddedToken token : tokens) {
        if (token.normalized != normalized) continue;
        if (normalized) token.content = normalizer(token.content);
        if (token.content.empty()) continue;
        by_first_byte_[static_cast<unsigned char>(token.content[0])].push_back(std::move(token));
    }
    for (std::vector<AddedToken>& bucket : by_first_byte_)
        std::ranges::stable_sort(bucket, std::greater(), [](const AddedToken& token) { return token.content.size(); });
}

const AddedToken* AddedTokens::longest_at(std::string_view text, std::size_t at) const {
    const std::string_view rest = text.substr(at);
    for (const AddedToken& token : by_first_byte_[static_cast<unsigned char>(text[at])])
        if (rest.starts_with(token.content)) return &token;
    return nullptr;
}

std::vector<Segment> AddedTokens::cut(std::string_view text) const {
    std::vector<Segment> segments;
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
        const AddedToken* token = longest_at(text, at);
        if (token == nullptr) {
            ++at;
            continue;
        }
        std::size_t begin = at, end = at + token->content.size();
        at = end;
        if (token->single_word && !stands_alone(text, begin, end)) continue;
        if (token->left) begin = space_before(text, begin, done);
        if (token->right) at = end = space_after(text, end);
        if (begin > done) segments.push_back({-1, text.substr(done, begin - done)});
        segments.push_back({token->id, text.substr(begin, end - begin)});
        done = end;
    }
    if (done < text.size()) segments.push_back({-1, text.substr(done)});
    return segments;
}

} // namespace tessera::huggingface
