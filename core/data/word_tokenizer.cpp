// SPDX-License-Identifier: Apache-2.0
// Cutting text into words, counting them, and putting them together again.
#include "core/data/word_tokenizer.hpp"

#include "core/data/data_error.hpp"
#include "core/data/utf8.hpp"
#include "core/json.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tessera {
namespace {

constexpr std::string_view unknown_word = "<unk>", end_word = "<eos>";

bool is_space(std::uint32_t point) { return point <= ' ' || point == 0x7f || point == 0xa0 || point == 0xfeff; }

// General and CJK punctuation beyond ASCII.
bool is_mark_beyond_ascii(std::uint32_t point) {
    return (point >= 0x2010 && point <= 0x205e) || (point >= 0x3001 && point <= 0x303f) || point == 0xab ||
           point == 0xbb;
}

bool is_letter(std::uint32_t point) {
    if (point >= 0x80) return !is_space(point) && !is_mark_beyond_ascii(point);
    const auto lower = point | 0x20;
    return (lower >= 'a' && lower <= 'z') || (point >= '0' && point <= '9') || point == '_';
}

// Where the text is no UTF-8, the error that refuse(byte) throws.
template <class Refuse> CodePoint code_point(std::string_view text, std::size_t at, const Refuse& refuse) {
    const std::optional<CodePoint> point = read_code_point(text, at);
    if (!point) refuse(at);
    return *point;
}

// take(word) for each word of the text, take("<eos>") for each end of a line.
template <class Take, class Refuse> void for_each_word(std::string_view text, const Take& take, const Refuse& refuse) {
    for (std::size_t at = 0; at < text.size();) {
        const CodePoint first = code_point(text, at, refuse);
        std::size_t end = at + first.bytes;
        if (text.substr(at).starts_with(unknown_word)) {
            end = at + unknown_word.size();
        } else if (is_letter(first.value)) {
            while (end < text.size()) {
                CodePoint next = code_point(text, end, refuse);
                std::size_t joined = end;
                if (next.value == '\'' || next.value == '-') {
                    joined += 1;
                    if (joined == text.size()) break;
                    next = code_point(text, joined, refuse);
                }
                if (!is_letter(next.value)) break;
                end = joined + next.bytes;
            }
        }
        if (first.value == '\n')
            take(end_word);
        else if (!is_space(first.value))
            take(text.substr(at, end - at));
        at = end;
    }
}

bool closes(std::string_view word) {
    constexpr std::string_view marks[] = {",", ".", ";", ":", "!",      "?",      ")",
                                          "]", "}", "%", "'", "\u2019", "\u201d", "\u2026"};
    return std::ranges::find(marks, word) != std::end(marks);
}

bool opens(std::string_view word) {
    constexpr std::string_view marks[] = {"(", "[", "{", "$", "\u2018", "\u201c"};
    return std::ranges::find(marks, word) != std::end(marks);
}

} // namespace

WordTokenizer::WordTokenizer(std::vector<std::string> words) : words_(std::move(words)) {
    ids_.reserve(words_.size());
    for (std::size_t id = 0; id < words_.size(); ++id)
        ids_.emplace(words_[id], static_cast<std::int32_t>(id));
}

std::vector<std::int32_t> WordTokenizer::encode(std::string_view text, std::string_view source) const {
    std::vector<std::int32_t> tokens;
    const auto take = [&](std::string_view word) {
        const auto found = ids_.find(word);
        tokens.push_back(found == ids_.end() ? unknown : found->second);
    };
    for_each_word(text, take, [&](std::size_t at) { throw ConfigError(invalid_utf8(source, text, at)); });
    return tokens;
}

std::string WordTokenizer::decode(std::span<const std::int32_t> tokens) const {
    std::string text;
    bool separated = true;
    for (const std::int32_t token : tokens) {
        if (token < 0 || token >= vocabulary_size())
            throw ConfigError(fmt::format("token {} is not in the vocabulary of {} words", token, vocabulary_size()));
        const std::string& word = words_[static_cast<std::size_t>(token)];
        if (token == end_of_line) {
            text += '\n';
            separated = true;
            continue;
        }
        if (!separated && !closes(word)) text += ' ';
        text += word;
        separated = opens(word);
    }
    return text;
}

std::string WordTokenizer::save() const {
    std::vector<std::string> words;
    for (const std::string& word : words_)
        words.push_back(json_string(word));
    return fmt::format(R"({{"kind":"word","words":[{}]}})", fmt::join(words, ","));
}

std::unique_ptr<Tokenizer> train_word_tokenizer(std::int64_t vocabulary, std::span<const NamedText> corpus) {
    if (vocabulary != 0 && vocabulary < 3)
        throw ConfigError(
            fmt::format("a vocabulary of {} words, expected at least 3: <unk>, <eos> and a word", vocabulary));
    std::unordered_map<std::string_view, std::int64_t> counts;
    for (const NamedText& text : corpus)
        for_each_word(
            text.text, [&](std::string_view word) { ++counts[word]; },
            [&](std::size_t at) { throw DataError(invalid_utf8(text.name, text.text, at)); });
    counts.erase(unknown_word);
    counts.erase(end_word);
    const auto most = static_cast<std::int64_t>(counts.size()) + 2;
    if (most == 2) throw DataError("a word tokenizer cannot be made from a corpus without words");
    if (vocabulary > most)
        throw ConfigError(fmt::format("the corpus has {} different words, with <unk> and <eos> {}: too few for a "
                                      "vocabulary of {}",
                                      most - 2, most, vocabulary));
    std::vector<std::pair<std::string_view, std::int64_t>> by_count(counts.begin(), counts.end());
    std::ranges::sort(by_count, [](const auto& a, const auto& b) {
        return a.second != b.second ? a.second > b.second : a.first < b.first;
    });
    if (vocabulary != 0) by_count.resize(static_cast<std::size_t>(vocabulary - 2));
    std::vector<std::string> words{std::string(unknown_word), std::string(end_word)};
    for (const auto& [word, count] : by_count)
        words.emplace_back(word);
    return std::make_unique<WordTokenizer>(std::move(words));
}

} // namespace tessera
