// SPDX-License-Identifier: Apache-2.0
// Merges from a corpus: counts of pairs over its distinct pieces, kept up to date merge by merge, and a heap of them.
#include "core/data/bpe_tokenizer.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>
#include <queue>
#include <tuple>

namespace tessera {
namespace {

struct Word {
    std::vector<std::int32_t> tokens;
    std::int64_t count = 0; // times that the piece occurs in the corpus
};

struct PairUse {
    std::int64_t count = 0;         // over the whole corpus
    std::vector<std::size_t> words; // those that hold the pair, or once did
};

struct Candidate {
    std::int64_t count;
    TokenPair pair;

    // The top of the heap: the largest count, then the smallest ids.
    friend bool operator<(const Candidate& a, const Candidate& b) {
        return std::tie(a.count, b.pair.first, b.pair.second) < std::tie(b.count, a.pair.first, a.pair.second);
    }
};

class BpeTraining {
public:
    explicit BpeTraining(std::span<const NamedText> corpus) {
        std::unordered_map<std::string_view, std::size_t> known;
        for (const NamedText& text : corpus)
            for (std::string_view rest = text.text; !rest.empty();) {
                const std::string_view piece = next_bpe_piece(rest);
                rest.remove_prefix(piece.size());
                const auto [place, first_time] = known.try_emplace(piece, words_.size());
                if (first_time) words_.push_back(word_of(piece));
                ++words_[place->second].count;
            }
        for (std::size_t word = 0; word < words_.size(); ++word)
            count_pairs(word, 1);
        for (const auto& [pair, use] : pairs_)
            candidates_.push({use.count, pair});
    }

    // The most frequent pair, or one that occurs less than twice when all are used up.
    Candidate most_frequent() {
        while (!candidates_.empty()) {
            const Candidate top = candidates_.top();
            const auto use = pairs_.find(top.pair);
            const std::int64_t count = use == pairs_.end() ? 0 : use->second.count;
            if (count == top.count) return top;
            candidates_.pop(); // counts only fall after a pair is first seen, so no better one hides below
            if (count > 0) candidates_.push({count, top.pair});
        }
        return {};
    }

    void merge(TokenPair pair, std::int32_t joined) {
        const std::vector<std::size_t> users = std::move(pairs_.at(pair).words);
        fresh_.clear();
        newest_ = joined;
        for (const std::size_t word : users) {
            count_pairs(word, -1);
            join(words_[word].tokens, pair, joined);
            count_pairs(word, 1);
        }
        pairs_.erase(pair);
        for (const TokenPair made : fresh_)
            if (const auto use = pairs_.find(made); use != pairs_.end()) candidates_.push({use->second.count, made});
    }

private:
    static Word word_of(std::string_view piece) {
        Word word;
        for (const char byte : piece)
            word.tokens.push_back(static_cast<unsigned char>(byte));
        return word;
    }

    static void join(std::vector<std::int32_t>& tokens, TokenPair pair, std::int32_t joined) {
        std::size_t end = 0;
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            const bool here = i + 1 < tokens.size() && tokens[i] == pair.first && tokens[i + 1] == pair.second;
            tokens[end++] = here ? joined : tokens[i];
            if (here) ++i;
        }
        tokens.resize(end);
    }

    // Adds (sign 1) or takes away (-1) what a word contributes. A pair is new to a word only at the start and where it
    // holds the newest token; elsewhere its list of words has it already.
    void count_pairs(std::size_t word, int sign) {
        const Word& counted = words_[word];
        for (std::size_t i = 0; i + 1 < counted.tokens.size(); ++i) {
            const TokenPair pair{counted.tokens[i], counted.tokens[i + 1]};
            const auto [place, first_time] = pairs_.try_emplace(pair);
            PairUse& use = place->second;
            use.count += sign * counted.count;
            const bool fresh = newest_ < 0 || pair.first == newest_ || pair.second == newest_;
            if (sign > 0 && fresh && (use.words.empty() || use.words.back() != word)) use.words.push_back(word);
            if (newest_ >= 0 && first_time) fresh_.push_back(pair);
        }
    }

    std::vector<Word> words_;
    std::unordered_map<TokenPair, PairUse, TokenPairHash> pairs_;
    std::priority_queue<Candidate> candidates_;
    std::vector<TokenPair> fresh_; // pairs that the current merge made
    std::int32_t newest_ = -1;     // the token that the current merge makes
};

} // namespace

std::vector<TokenPair> train_bpe_merges(std::int64_t vocabulary_size, std::span<const NamedText> corpus) {
    if (vocabulary_size < 256 || vocabulary_size > bpe_vocabulary_limit)
        throw ConfigError(fmt::format("a bpe tokenizer has from 256 (the bytes) to {} tokens; vocabulary_size is {}",
                                      bpe_vocabulary_limit, vocabulary_size));
    BpeTraining training(corpus);
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
