// SPDX-License-Identifier: Apache-2.0
// Cutting text into pieces, and joining the bytes of a piece by the rank of the merges. A corpus repeats its pieces, so
// each is joined once per call.
#include "core/data/bpe_tokenizer.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace tessera {
namespace {

enum class ByteClass : std::uint8_t { letter, digit, space, other };

constexpr std::array<ByteClass, 256> byte_classes = [] {
    std::array<ByteClass, 256> classes{};
    for (int byte = 0; byte < 256; ++byte) {
        const bool letter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || byte >= 128;
        const bool digit = byte >= '0' && byte <= '9';
        const bool space = byte == ' ' || (byte >= '\t' && byte <= '\r');
        classes[static_cast<std::size_t>(byte)] = letter  ? ByteClass::letter
                                                  : digit ? ByteClass::digit
                                                  : space ? ByteClass::space
                                                          : ByteClass::other;
    }
    return classes;
}();

ByteClass class_of(char byte) { return byte_classes[static_cast<unsigned char>(byte)]; }

// Bytes of the run of one class that starts at `begin`.
std::size_t run_length(std::string_view text, std::size_t begin) {
    const ByteClass wanted = class_of(text[begin]);
    std::size_t end = begin + 1;
    while (end < text.size() && class_of(text[end]) == wanted)
        ++end;
    return end - begin;
}

std::size_t piece_length(std::string_view text) {
    constexpr std::array<std::string_view, 7> endings = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    if (text[0] == '\'')
        for (const std::string_view ending : endings)
            if (text.starts_with(ending)) return ending.size();
    const bool leading_space = text[0] == ' ' && text.size() > 1 && class_of(text[1]) != ByteClass::space;
    if (leading_space) return 1 + run_length(text, 1);
    const std::size_t run = run_length(text, 0);
    const bool gives_last = class_of(text[0]) == ByteClass::space && run > 1 && run < text.size();
    return gives_last ? run - 1 : run;
}

} // namespace

std::string_view next_bpe_piece(std::string_view text) {
    // One byte more than a piece may have: enough to see where it ends, and a long run costs no more than its pieces.
    return text.substr(0, std::min(piece_length(text.substr(0, bpe_piece_bytes + 1)), bpe_piece_bytes));
}

BpeTokenizer::BpeTokenizer(std::vector<TokenPair> merges) : merges_(std::move(merges)), text_ends_{0} {
    if (vocabulary_size() > bpe_vocabulary_limit)
        throw ConfigError(fmt::format("bpe tokenizer: {} merges, at most {} are allowed", merges_.size(),
                                      bpe_vocabulary_limit - 256));
    for (int byte = 0; byte < 256; ++byte) {
        texts_.push_back(static_cast<char>(byte));
        text_ends_.push_back(texts_.size());
    }
    for (std::size_t i = 0; i < merges_.size(); ++i) {
        const auto [first, second] = merges_[i];
        const auto id = static_cast<std::int32_t>(256 + i);
        if (first < 0 || second < 0 || first >= id || second >= id)
            throw ConfigError(
                fmt::format("bpe tokenizer: merge {} joins the tokens {} and {}, only 0 to {} exist there", i, first,
                            second, id - 1));
        const auto a = static_cast<std::size_t>(first);
        const auto b = static_cast<std::size_t>(second);
        if (token_bytes(a) + token_bytes(b) > bpe_piece_bytes)
            throw ConfigError(fmt::format("bpe tokenizer: merge {} makes a token of {} bytes, at most {} are allowed",
                                          i, token_bytes(a) + token_bytes(b), bpe_piece_bytes));
        if (!ids_.emplace(merges_[i], id).second)
            throw ConfigError(
                fmt::format("bpe tokenizer: merge {} joins the tokens {} and {} a second time", i, first, second));
        texts_ += texts_.substr(text_ends_[a], token_bytes(a)) + texts_.substr(text_ends_[b], token_bytes(b));
        text_ends_.push_back(texts_.size());
    }
}

// Joins the pair with the lowest merge, leftmost first, until none is left. A joined pair can only enable later merges,
// so this is the order of the training.
void BpeTokenizer::append_piece(std::string_view piece, std::vector<std::int32_t>& tokens) const {
    const std::size_t begin = tokens.size();
    for (const char byte : piece)
        tokens.push_back(static_cast<unsigned char>(byte));
    constexpr std::int32_t none = INT32_MAX;
    std::array<std::int32_t, bpe_piece_bytes> joined{}; // what tokens begin + i and begin + i + 1 would become
    const auto joined_at = [&](std::size_t i) {
        const auto found = ids_.find({tokens[i], tokens[i + 1]});
        return found == ids_.end() ? none : found->second;
    };
    for (std::size_t i = begin; i + 1 < tokens.size(); ++i)
        joined[i - begin] = joined_at(i);
    while (tokens.size() - begin > 1) {
        const auto end = joined.begin() + static_cast<std::ptrdiff_t>(tokens.size() - begin - 1);
        const auto lowest = std::min_element(joined.begin(), end);
        if (*lowest == none) return;
        const auto place = static_cast<std::size_t>(lowest - joined.begin());
        const std::size_t at = begin + place;
        tokens[at] = *lowest;
        tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(at + 1));
        std::copy(lowest + 1, end, lowest);
        if (at + 1 < tokens.size()) joined[place] = joined_at(at);
        if (place > 0) joined[place - 1] = joined_at(at - 1);
    }
}

std::vector<std::int32_t> BpeTokenizer::encode(std::string_view text, std::string_view /*source*/) const {
    struct Range {
        std::size_t begin;
        std::size_t end;
    };
    std::unordered_map<std::string_view, Range> known; // where in `tokens` a piece stood first
    std::vector<std::int32_t> tokens;
    tokens.reserve(text.size() / 3);
    while (!text.empty()) {
        const std::string_view piece = next_bpe_piece(text);
        text.remove_prefix(piece.size());
        const auto [place, first_time] = known.try_emplace(piece);
        Range& range = place->second;
        if (first_time) {
            range.begin = tokens.size();
            append_piece(piece, tokens);
            range.end = tokens.size();
        } else {
            for (std::size_t i = range.begin; i < range.end; ++i)
                tokens.push_back(tokens[i]);
        }
    }
    return tokens;
}

std::string BpeTokenizer::decode(std::span<const std::int32_t> tokens) const {
    std::string text;
    for (const std::int32_t token : tokens) {
        if (token < 0 || token >= vocabulary_size())
            throw ConfigError(fmt::format("token {} is not in the vocabulary of {} tokens", token, vocabulary_size()));
        const auto id = static_cast<std::size_t>(token);
        text.append(texts_, text_ends_[id], token_bytes(id));
    }
    return text;
}

std::string BpeTokenizer::save() const {
    std::string json = R"({"kind":"bpe","merges":[)";
    for (std::size_t i = 0; i < merges_.size(); ++i)
        fmt::format_to(std::back_inserter(json), "{}[{},{}]", i == 0 ? "" : ",", merges_[i].first, merges_[i].second);
    return json + "]}";
}

} // namespace tessera
