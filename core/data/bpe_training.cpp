// SPDX-License-Identifier: Apache-2.0
// Merges from a corpus: its distinct pieces are the words.
#include "core/data/bpe_tokenizer.hpp"
#include "core/data/pair_merging.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

std::vector<Word> words_of(std::span<const NamedText> corpus, BpePieces pieces) {
    std::vector<Word> words;
    std::unordered_map<std::string_view, std::size_t> known;
    for (const NamedText& text : corpus)
        for (std::string_view rest = text.text; !rest.empty();) {
            const std::string_view piece = next_bpe_piece(rest, pieces);
            rest.remove_prefix(piece.size());
            const auto [place, first_time] = known.try_emplace(piece, words.size());
            if (first_time) {
                Word& word = words.emplace_back();
                for (const char byte : piece)
                    word.tokens.push_back(static_cast<unsigned char>(byte));
            }
            ++words[place->second].count;
        }
    return words;
}

} // namespace

std::vector<TokenPair> train_bpe_merges(std::int64_t vocabulary_size, std::span<const NamedText> corpus,
                                        BpePieces pieces) {
    if (vocabulary_size < 256 || vocabulary_size > bpe_vocabulary_limit)
        throw ConfigError(fmt::format("a bpe tokenizer has from 256 (the bytes) to {} tokens; vocabulary_size is {}",
                                      bpe_vocabulary_limit, vocabulary_size));
    PairMerging training(words_of(corpus, pieces));
    std::vector<TokenPair> merges;
    for (auto joined = static_cast<std::int32_t>(256); joined < vocabulary_size; ++joined) {
        const Candidate best = training.most_frequent();
        if (best.count < 2)
            throw ConfigError(fmt::format("the corpus gives a bpe tokenizer of {} tokens at most (no pair is left that "
                                          "occurs twice); vocabulary_size is {}",
                                          joined, vocabulary_size));
        merges.push_back(best.pair);
        training.merge(best.pair, joined);
    }
    return merges;
}

} // namespace tessera
