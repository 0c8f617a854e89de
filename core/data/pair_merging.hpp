// SPDX-License-Identifier: Apache-2.0
// Joins the most frequent pair of neighbouring tokens in a list of counted words, again and again: the training of BPE
// and of WordPiece. Counts are kept up to date merge by merge, with a heap of them.
#pragma once

#include "core/data/bpe_tokenizer.hpp"

#include <queue>
#include <tuple>

namespace tessera {

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

class PairMerging {
public:
    explicit PairMerging(std::vector<Word> words) : words_(std::move(words)) {
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

} // namespace tessera
