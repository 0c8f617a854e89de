// SPDX-License-Identifier: Apache-2.0
// Cutting text into pieces, and joining the bytes of a piece by the rank of the merges. A corpus repeats its pieces, so
// each is joined once per call.
#include "core/data/bpe_tokenizer.hpp"

#include "core/data/unicode.hpp"
#include "core/data/utf8.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <optional>

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

// Of "'s" and the like at the beginning of a text; 0: there is none.
std::size_t ending_length(std::string_view text) {
    constexpr std::array<std::string_view, 7> endings = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    if (text[0] == '\'')
        for (const std::string_view ending : endings)
            if (text.starts_with(ending)) return ending.size();
    return 0;
}

std::size_t piece_length(std::string_view text) {
    if (const std::size_t ending = ending_length(text); ending > 0) return ending;
    const bool leading_space = text[0] == ' ' && text.size() > 1 && class_of(text[1]) != ByteClass::space;
    if (leading_space) return 1 + run_length(text, 1);
    const std::size_t run = run_length(text, 0);
    const bool gives_last = class_of(text[0]) == ByteClass::space && run > 1 && run < text.size();
    return gives_last ? run - 1 : run;
}

struct ClassedPoint {
    ByteClass kind;
    std::size_t bytes;
};

ClassedPoint point_at(std::string_view text, std::size_t at) {
    if (static_cast<unsigned char>(text[at]) < 128) return {class_of(text[at]), 1};
    const std::optional<CodePoint> point = read_code_point(text, at);
    if (!point) return {ByteClass::other, 1};
    const std::uint32_t c = point->value;
    return {is_letter(c)        ? ByteClass::letter
            : is_number(c)      ? ByteClass::digit
            : is_white_space(c) ? ByteClass::space
                                : ByteClass::other,
            point->bytes};
}

// By code points.
std::size_t unicode_piece_length(std::string_view text) {
    if (const std::size_t ending = ending_length(text); ending > 0) return ending;
    const bool spaced = text[0] == ' ' && text.size() > 1 && point_at(text, 1).kind != ByteClass::space;
    const std::size_t begin = spaced ? 1 : 0;
    const ByteClass kind = point_at(text, begin).kind;
    std::size_t end = begin, last = 0;
    for (std::size_t points = begin; points < bpe_piece_points && end < text.size(); ++points) {
        const ClassedPoint point = point_at(text, end);
        if (point.kind != kind) break;
        last = point.bytes;
        end += last;
    }
    const bool gives_last =
        kind == ByteClass::space && end > last && end < text.size() && point_at(text, end).kind != ByteClass::space;
    return gives_last ? end - last : end;
}

} // namespace

std::string_view next_bpe_piece(std::string_view text, BpePieces pieces) {
    if (pieces == BpePieces::unicode) return text.substr(0, unicode_piece_length(text));
    // One byte more than a piece may have: enough to see where it ends, and a long run costs no more than its pieces.
    return text.substr(0, std::min(piece_length(text.substr(0, bpe_piece_bytes + 1)), bpe_piece_bytes));
}

BpeTokenizer::BpeTokenizer(std::vector<TokenPair> merges, BpePieces pieces)
    : pieces_(pieces), merges_(std::move(merges)) {
    if (vocabulary_size() > bpe_vocabulary_limit)
        throw ConfigError(fmt::format("bpe tokenizer: {} merges, at most {} are allowed", merges_.size(),
                                      bpe_vocabulary_limit - 256));
    bytes_.assign(256 + merges_.size(), 1);
    ids_.reserve(merges_.size());
    for (std::size_t i = 0; i < merges_.size(); ++i) {
        const auto [first, second] = merges_[i];
        const auto id = static_cast<std::int32_t>(256 + i);
        if (first < 0 || second < 0 || first >= id || second >= id)
            throw ConfigError(
                fmt::format("bpe tokenizer: merge {} joins the tokens {} and {}, only 0 to {} exist there", i, first,
                            second, id - 1));
        const std::size_t bytes =
            std::size_t{bytes_[static_cast<std::size_t>(first)]} + bytes_[static_cast<std::size_t>(second)];
        if (bytes > bpe_piece_bytes)
            throw ConfigError(fmt::format("bpe tokenizer: merge {} makes a token of {} bytes, at most {} are allowed",
                                          i, bytes, bpe_piece_bytes));
        bytes_[256 + i] = static_cast<std::uint16_t>(bytes);
        if (!ids_.emplace(merges_[i], id).second)
            throw ConfigError(
                fmt::format("bpe tokenizer: merge {} joins the tokens {} and {} a second time", i, first, second));
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
        const std::string_view piece = next_bpe_piece(text, pieces_);
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

// A token's text is not kept but put together from its merges: 256 bytes for each of them would be many times the file
// that they were loaded from. At most 256 tokens wait, the last of them next.
void BpeTokenizer::append_text(std::int32_t id, std::string& text) const {
    std::array<std::int32_t, bpe_piece_bytes> waiting{};
    std::size_t count = 0;
    waiting[count++] = id;
    while (count > 0) {
        const std::int32_t next = waiting[--count];
        if (next < 256) {
            text.push_back(static_cast<char>(next));
            continue;
        }
        const TokenPair pair = merges_[static_cast<std::size_t>(next - 256)];
        waiting[count++] = pair.second;
        waiting[count++] = pair.first;
    }
}

std::string BpeTokenizer::decode(std::span<const std::int32_t> tokens) const {
    std::string text;
    for (const std::int32_t token : tokens) {
        if (token < 0 || token >= vocabulary_size())
            throw ConfigError(fmt::format("token {} is not in the vocabulary of {} tokens", token, vocabulary_size()));
        append_text(token, text);
    }
    return text;
}

std::string BpeTokenizer::save() const {
    std::string json = fmt::format(R"({{"kind":"{}","merges":[)", kind());
    for (std::size_t i = 0; i < merges_.size(); ++i)
        fmt::format_to(std::back_inserter(json), "{}[{},{}]", i == 0 ? "" : ",", merges_[i].first, merges_[i].second);
    return json + "]}";
}

} // namespace tessera
