// SPDX-License-Identifier: Apache-2.0
// Characters of a piece, joined by the rank of the merges; of equal ranks the leftmost first.
#include "core/data/huggingface/byte_pairs.hpp"

#include "core/data/bpe_tokenizer.hpp"
#include "core/data/huggingface/component.hpp"
#include "core/data/utf8.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>
#include <queue>

namespace tessera::huggingface {
namespace {

struct Merge {
    std::int32_t rank = 0;
    std::int32_t joined = 0;
};

struct Symbol {
    std::int32_t id = 0;
    std::int32_t previous = -1, next = -1; // symbols that are still there
    bool gone = false;
};

struct Candidate {
    std::int32_t rank;
    std::int32_t at; // the symbol on the left
    TokenPair pair;

    friend bool operator<(const Candidate& a, const Candidate& b) { // the top of the heap comes first
        return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
    }
};

class BytePairs final : public Subwords {
public:
    BytePairs(const JsonValue& model, const Vocabulary& vocabulary)
        : vocabulary_(vocabulary), prefix_(text_of(model, "continuing_subword_prefix", "")),
          suffix_(text_of(model, "end_of_word_suffix", "")), fuses_(truth_of(model, "fuse_unk", false)),
          falls_back_(truth_of(model, "byte_fallback", false)), whole_first_(truth_of(model, "ignore_merges", false)) {
        if (const JsonValue* dropout = present(model.find("dropout")); dropout != nullptr && dropout->number > 0)
            throw ConfigError("tokenizer: BPE with dropout gives other ids each time: set it to null");
        const std::string unknown = text_of(model, "unk_token", "");
        if (const auto found = vocabulary.find(unknown); found != vocabulary.end()) unknown_ = found->second;
        const JsonValue& merges = list_of(model, "merges");
        merges_.reserve(merges.items.size());
        for (std::size_t i = 0; i < merges.items.size(); ++i)
            take_merge(merges.items[i], static_cast<std::int32_t>(i));
    }

    void append(std::string_view piece, std::vector<std::int32_t>& ids) const override {
        if (whole_first_)
            if (const auto whole = vocabulary_.find(piece); whole != vocabulary_.end()) {
                ids.push_back(whole->second);
                return;
            }
        std::vector<Symbol> symbols = symbols_of(piece);
        merge(symbols);
        for (const Symbol& symbol : symbols)
            if (!symbol.gone) ids.push_back(symbol.id);
    }

private:
    // "a b", or ["a", "b"] in newer files.
    void take_merge(const JsonValue& entry, std::int32_t rank) {
        std::string_view first, second;
        if (entry.is(JsonValue::Kind::array) && entry.items.size() == 2) {
            first = entry.items[0].text;
            second = entry.items[1].text;
        } else {
            const std::size_t space = std::min(entry.text.find(' '), entry.text.size());
            first = std::string_view(entry.text).substr(0, space);
            second = std::string_view(entry.text).substr(std::min(space + 1, entry.text.size()));
        }
        if (first.empty() || second.empty())
            throw ConfigError(fmt::format("tokenizer: merge {} is no pair of tokens", rank));
        const std::string_view rest = second.substr(second.starts_with(prefix_) ? prefix_.size() : 0);
        const std::string joined = std::string(first) + std::string(rest);
        const TokenPair pair{id_of(first, rank), id_of(second, rank)};
        merges_.insert_or_assign(pair, Merge{rank, id_of(joined, rank)});
    }

    std::int32_t id_of(std::string_view token, std::int32_t rank) const {
        const auto found = vocabulary_.find(token);
        if (found == vocabulary_.end())
            throw ConfigError(
                fmt::format("tokenizer: merge {} names '{:.40}', which is not in the vocabulary", rank, token));
        return found->second;
    }

    std::vector<Symbol> symbols_of(std::string_view piece) const {
        std::vector<Symbol> symbols;
        symbols.reserve(piece.size());
        std::string name;
        bool unknown_before = false;
        for (std::size_t at = 0; at < piece.size();) {
            const std::size_t bytes = read_code_point(piece, at)->bytes;
            const std::string_view character = piece.substr(at, bytes);
            name = (at > 0 ? prefix_ : "") + std::string(character) + (at + bytes == piece.size() ? suffix_ : "");
            at += bytes;
            if (const auto found = vocabulary_.find(name); found != vocabulary_.end()) {
                symbols.push_back({found->second});
                unknown_before = false;
                continue;
            }
            if (falls_back_ && append_bytes(name, symbols)) {
                unknown_before = false;
                continue;
            }
            if (unknown_ >= 0 && !(fuses_ && unknown_before)) symbols.push_back({unknown_});
            unknown_before = true;
        }
        for (std::size_t i = 0; i < symbols.size(); ++i) {
            symbols[i].previous = static_cast<std::int32_t>(i) - 1;
            symbols[i].next = i + 1 < symbols.size() ? static_cast<std::int32_t>(i + 1) : -1;
        }
        return symbols;
    }

    // "<0xF0>", … for each byte; false where one of them is not in the vocabulary.
    bool append_bytes(std::string_view character, std::vector<Symbol>& symbols) const {
        const std::size_t before = symbols.size();
        for (const char byte : character) {
            const auto found = vocabulary_.find(fmt::format("<0x{:02X}>", static_cast<unsigned char>(byte)));
            if (found == vocabulary_.end()) {
                symbols.resize(before);
                return false;
            }
            symbols.push_back({found->second});
        }
        return true;
    }

    void offer(const std::vector<Symbol>& symbols, std::int32_t at, std::priority_queue<Candidate>& waiting) const {
        if (at < 0 || symbols[static_cast<std::size_t>(at)].next < 0) return;
        const Symbol& left = symbols[static_cast<std::size_t>(at)];
        const TokenPair pair{left.id, symbols[static_cast<std::size_t>(left.next)].id};
        if (const auto found = merges_.find(pair); found != merges_.end()) waiting.push({found->second.rank, at, pair});
    }

    void merge(std::vector<Symbol>& symbols) const {
        std::priority_queue<Candidate> waiting;
        for (std::size_t i = 0; i + 1 < symbols.size(); ++i)
            offer(symbols, static_cast<std::int32_t>(i), waiting);
        while (!waiting.empty()) {
            const Candidate best = waiting.top();
            waiting.pop();
            Symbol& left = symbols[static_cast<std::size_t>(best.at)];
            if (left.gone || left.next < 0) continue;
            Symbol& right = symbols[static_cast<std::size_t>(left.next)];
            if (!(TokenPair{left.id, right.id} == best.pair)) continue; // one of them has been joined since
            left.id = merges_.at(best.pair).joined;
            right.gone = true;
            left.next = right.next;
            if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = best.at;
            offer(symbols, left.previous, waiting);
            offer(symbols, best.at, waiting);
        }
    }

    const Vocabulary& vocabulary_;
    std::string prefix_, suffix_;
    bool fuses_, falls_back_, whole_first_;
    std::int32_t unknown_ = -1;
    std::unordered_map<TokenPair, Merge, TokenPairHash> merges_;
};

} // namespace

std::unique_ptr<Subwords> make_byte_pairs(const JsonValue& model, const Vocabulary& vocabulary) {
    return std::make_unique<BytePairs>(model, vocabulary);
}

} // namespace tessera::huggingface
