// SPDX-License-Identifier: Apache-2.0
#include "core/data/wordpiece_training.hpp"

#include "core/data/huggingface/documents.hpp"
#include "core/data/huggingface/normalizer.hpp"
#include "core/data/huggingface/splitter.hpp"
#include "core/data/pair_merging.hpp"
#include "core/data/utf8.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>
#include <map>
#include <set>

namespace tessera {
namespace {

constexpr std::size_t marks = huggingface::bert_marks.size();

// How often each word of the corpus occurs.
std::map<std::string, std::int64_t> count_words(std::span<const NamedText> corpus, const JsonValue& document) {
    const huggingface::Normalizer normalize = huggingface::make_normalizer(document.find("normalizer"));
    const huggingface::Splitter split = huggingface::make_splitter(document.find("pre_tokenizer"));
    std::map<std::string, std::int64_t> counts;
    for (const NamedText& text : corpus)
        for (std::string_view rest = text.text; !rest.empty();) { // a line at a time: no word crosses its end
            const std::string_view line = rest.substr(0, std::min(rest.find('\n'), rest.size() - 1) + 1);
            for (std::size_t at = 0; at < line.size();) {
                const auto here = read_code_point(line, at);
                if (!here)
                    throw ConfigError(invalid_utf8(text.name, text.text,
                                                   static_cast<std::size_t>(line.data() - text.text.data()) + at));
                at += here->bytes;
            }
            rest.remove_prefix(line.size());
            for (std::string& word : split({normalize(std::string(line))}, true))
                ++counts[std::move(word)];
        }
    return counts;
}

std::vector<std::string> symbols_of(const std::string& word) {
    std::vector<std::string> symbols;
    for (std::size_t at = 0; at < word.size();) {
        const std::size_t bytes = read_code_point(word, at)->bytes;
        symbols.push_back((at > 0 ? "##" : "") + word.substr(at, bytes));
        at += bytes;
    }
    return symbols;
}

} // namespace

JsonValue train_wordpiece_json(std::int64_t vocabulary_size, std::span<const NamedText> corpus) {
    JsonValue document = huggingface::wordpiece_document({}, false);
    const auto counts = count_words(corpus, document);
    std::set<std::string> alphabet;
    for (const auto& [word, count] : counts)
        for (std::string& symbol : symbols_of(word))
            alphabet.insert(std::move(symbol));
    std::vector<std::string> tokens(huggingface::bert_marks.begin(), huggingface::bert_marks.end());
    tokens.insert(tokens.end(), alphabet.begin(), alphabet.end());
    if (vocabulary_size < static_cast<std::int64_t>(tokens.size()) || vocabulary_size > bpe_vocabulary_limit)
        throw ConfigError(fmt::format(
            "a wordpiece tokenizer of this corpus has from {} tokens (its characters, and {} of BERT's) to {}; "
            "vocabulary_size is {}",
            tokens.size(), marks, bpe_vocabulary_limit, vocabulary_size));
    std::map<std::string_view, std::int32_t> ids;
    for (const std::string& symbol : alphabet)
        ids.emplace(symbol, static_cast<std::int32_t>(marks + ids.size()));
    std::vector<Word> words;
    for (const auto& [text, count] : counts) {
        Word& word = words.emplace_back();
        word.count = count;
        for (const std::string& symbol : symbols_of(text))
            word.tokens.push_back(ids.at(symbol));
    }
    PairMerging training(std::move(words));
    while (static_cast<std::int64_t>(tokens.size()) < vocabulary_size) {
        const Candidate best = training.most_frequent();
        if (best.count < 2)
            throw ConfigError(
                fmt::format("the corpus gives a wordpiece tokenizer of {} tokens at most (no pair is left that occurs "
                            "twice); vocabulary_size is {}",
                            tokens.size(), vocabulary_size));
        training.merge(best.pair, static_cast<std::int32_t>(tokens.size()));
        tokens.push_back(tokens[static_cast<std::size_t>(best.pair.first)] +
                         tokens[static_cast<std::size_t>(best.pair.second)].substr(2)); // without its "##"
    }
    return huggingface::wordpiece_document(tokens, false);
}

} // namespace tessera
