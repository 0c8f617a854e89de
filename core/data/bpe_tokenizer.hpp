// SPDX-License-Identifier: Apache-2.0
// Byte-level byte-pair encoding (Sennrich et al. 2016, over bytes as in GPT-2): ids 0 to 255 are the bytes, id 256 + i
// is what merge i joins. How pieces are cut is part of the tokenizer and never changes: there are two ways.
#pragma once

#include "core/data/tokenizer.hpp"

#include <unordered_map>

namespace tessera {

// Two neighbouring tokens.
struct TokenPair {
    std::int32_t first = 0;
    std::int32_t second = 0;

    friend bool operator==(TokenPair, TokenPair) = default;
};

struct TokenPairHash {
    std::size_t operator()(TokenPair pair) const {
        const auto both = static_cast<std::uint64_t>(static_cast<std::uint32_t>(pair.first)) << 32 |
                          static_cast<std::uint32_t>(pair.second);
        return static_cast<std::size_t>((both ^ (both >> 29)) * 0x9e3779b97f4a7c15u >> 20);
    }
};

inline constexpr std::size_t bpe_piece_bytes = 256;              // the longest piece, and so the longest token
inline constexpr std::size_t bpe_piece_points = 64;              // of unicode: as many bytes at most
inline constexpr std::int64_t bpe_vocabulary_limit = 256 * 1024; // of any tokenizer that is trained or loaded

// By what letters, digits and white space are: unicode by the properties L, N and White_Space of code points, where a
// byte that is no UTF-8 is none of them; ascii, of tokenizers trained by earlier versions, by bytes: a-z, A-Z and all
// bytes from 128 on are letters.
enum class BpePieces : std::uint8_t { ascii, unicode };

// Merges stay inside pieces. The next piece of `text` (not empty) is the first of these that fits, cut after 64 code
// points (ascii: 256 bytes):
//   's 't 're 've 'm 'll 'd
//   one space or none, then letters
//   one space or none, then digits
//   one space or none, then anything that is neither letter, digit nor white space
//   white space, but for its last character where something else follows
//   white space
// These are the pieces of GPT-2's own pattern; those of ascii are so on ASCII text.
std::string_view next_bpe_piece(std::string_view text, BpePieces pieces);

class BpeTokenizer final : public Tokenizer {
public:
    // Merge i joins two ids below 256 + i, no pair twice, no token above bpe_piece_bytes: checked, ConfigError.
    BpeTokenizer(std::vector<TokenPair> merges, BpePieces pieces);

    std::string_view kind() const override { return pieces_ == BpePieces::ascii ? "bpe" : "bpe_unicode"; }
    std::int64_t vocabulary_size() const override { return static_cast<std::int64_t>(256 + merges_.size()); }
    std::vector<std::int32_t> encode(std::string_view text, std::string_view source) const override;
    std::string decode(std::span<const std::int32_t> tokens) const override;
    std::string save() const override; // {"kind": "bpe_unicode", "merges": [[32, 116], …]}

    const std::vector<TokenPair>& merges() const { return merges_; }

private:
    void append_piece(std::string_view piece, std::vector<std::int32_t>& tokens) const;
    void append_text(std::int32_t id, std::string& text) const;

    BpePieces pieces_;
    std::vector<TokenPair> merges_;
    std::unordered_map<TokenPair, std::int32_t, TokenPairHash> ids_; // of the joined token
    std::vector<std::uint16_t> bytes_;                               // of each token
};

// Joins the most frequent pair vocabulary_size - 256 times; of equally frequent pairs the one with the smaller first,
// then second id. A pair must occur twice. Throws ConfigError for a vocabulary that the corpus cannot give, with the
// largest.
std::vector<TokenPair> train_bpe_merges(std::int64_t vocabulary_size, std::span<const NamedText> corpus,
                                        BpePieces pieces);

} // namespace tessera
