// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding against the plainest trainer and encoder that can be written, and pieces against GPT-2's pattern.
#include "core/data/bpe_tokenizer.hpp"
#include "core/data/regex.hpp"
#include "tests/core/data_files.hpp"

#include <algorithm>
#include <map>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

using namespace tessera;

namespace {

using Tokens = std::vector<std::int32_t>;
using Pair = std::pair<std::int32_t, std::int32_t>;

std::vector<std::string> pieces_of(std::string_view text, BpePieces by = BpePieces::ascii) {
    std::vector<std::string> pieces;
    while (!text.empty()) {
        pieces.emplace_back(next_bpe_piece(text, by));
        text.remove_prefix(pieces.back().size());
    }
    return pieces;
}

Tokens bytes_of(const std::string& piece) {
    Tokens tokens;
    for (const char byte : piece)
        tokens.push_back(static_cast<unsigned char>(byte));
    return tokens;
}

void replace_pair(Tokens& tokens, Pair pair, std::int32_t joined) {
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i)
        if (Pair{tokens[i], tokens[i + 1]} == pair) {
            tokens[i] = joined;
            tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(i + 1));
        }
}

// Counts all pairs of all pieces anew for every merge.
std::vector<Pair> plain_merges(std::string_view text, int merges) {
    std::vector<Tokens> pieces;
    for (const std::string& piece : pieces_of(text))
        pieces.push_back(bytes_of(piece));
    std::vector<Pair> made;
    for (int merge = 0; merge < merges; ++merge) {
        std::map<Pair, int> counts;
        for (const Tokens& piece : pieces)
            for (std::size_t i = 0; i + 1 < piece.size(); ++i)
                ++counts[{piece[i], piece[i + 1]}];
        Pair best;
        int most = 1;
        for (const auto& [pair, count] : counts) // ascending pairs: the first of the most frequent wins
            if (count > most) {
                most = count;
                best = pair;
            }
        if (most < 2) break;
        for (Tokens& piece : pieces)
            replace_pair(piece, best, 256 + merge);
        made.push_back(best);
    }
    return made;
}

std::vector<Pair> trained_merges(std::string_view text, std::int64_t merges) {
    const NamedText named{"corpus", text};
    std::vector<Pair> made;
    for (const TokenPair pair : train_bpe_merges(256 + merges, {&named, 1}, BpePieces::ascii))
        made.emplace_back(pair.first, pair.second);
    return made;
}

BpeTokenizer tokenizer_of(const std::vector<Pair>& merges) {
    std::vector<TokenPair> pairs;
    for (const auto& [first, second] : merges)
        pairs.push_back({first, second});
    return BpeTokenizer(std::move(pairs), BpePieces::ascii);
}

// Few letters, so that pairs repeat and overlap, and long pieces of them.
rc::Gen<std::string> dense_text() {
    const std::string letters = "aaaaaaaaaaabbbbbbbbbbbcccccccdddd  \n1'st.\xc3\xa9";
    return rc::gen::scale(4.0, rc::gen::container<std::string>(rc::gen::elementOf(letters)));
}

} // namespace

TEST(BpePieces, AreThoseOfGpt2OnAscii) {
    // re.findall(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", text) in Python
    EXPECT_EQ(
        pieces_of("Hello world, it's 2024!  We'll  see\n\n  indented\t tab 'scuse ''s x1y 3.14 \n"),
        (std::vector<std::string>{"Hello", " world", ",",    " it",   "'s",        " 2024", "!",    " ",  " We",
                                  "'ll",   " ",      " see", "\n\n ", " indented", "\t",    " tab", " '", "scuse",
                                  " ''",   "s",      " x",   "1",     "y",         " 3",    ".",    "14", " \n"}));
    EXPECT_EQ(pieces_of("'re're'v'ves"), (std::vector<std::string>{"'re", "'re", "'", "v", "'ve", "s"}));
    EXPECT_EQ(pieces_of(" caf\xc3\xa9!"), (std::vector<std::string>{" caf\xc3\xa9", "!"}));
}

TEST(BpePieces, LongRunsAreCut) {
    const std::vector<std::string> pieces = pieces_of(std::string(300, 'a') + " b");
    ASSERT_EQ(pieces.size(), 3u);
    EXPECT_EQ(pieces[0], std::string(256, 'a'));
    EXPECT_EQ(pieces[1], std::string(44, 'a'));
    for (const std::size_t spaces : {255, 256, 257, 258, 513}) {
        const std::string text = std::string(spaces, ' ') + "x";
        std::size_t bytes = 0;
        for (const std::string& piece : pieces_of(text)) {
            EXPECT_LE(piece.size(), 256u);
            bytes += piece.size();
        }
        EXPECT_EQ(bytes, text.size());
        EXPECT_EQ(pieces_of(text).back(), " x") << spaces;
    }
}

// Against the pattern by a regular expression's engine, on texts of many scripts; on ASCII as the other way.
TEST(BpePieces, OfUnicodeAreThoseOfGpt2) {
    const Regex pattern(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
    for (const std::string text :
         {"Hello world, it's 2024!  We'll  see\n\n  indented\t tab 'scuse ''s x1y 3.14 \n", "«Ça va?» — dit-il… 50 €",
          "你好，世界！第３章 １２", "नमस्ते दुनिया", "ﬁn\u00a0\u00a0de\u2003 l'année\u3000x", "🙂🙂 ok👍🏽.",
          "½ ² Ⅷ x\u0301y", "\u2028 \u2029", "'s's 's's"}) {
        std::vector<std::string> wanted;
        for (std::size_t at = 0; at < text.size();) {
            const auto match = pattern.find(text, at);
            ASSERT_TRUE(match && match->begin == at) << text;
            wanted.push_back(text.substr(at, match->end - at));
            at = match->end;
        }
        EXPECT_EQ(pieces_of(text, BpePieces::unicode), wanted) << text;
    }
    const std::string ascii = "Hello world, it's 2024!  We'll  see\n\n  indented\t tab 'scuse ''s x1y 3.14 \n";
    EXPECT_EQ(pieces_of(ascii, BpePieces::unicode), pieces_of(ascii));
    EXPECT_EQ(pieces_of("é“a", BpePieces::unicode), (std::vector<std::string>{"é", "“", "a"}));
    EXPECT_EQ(pieces_of("é“a"), (std::vector<std::string>{"é“a"}));
    EXPECT_EQ(pieces_of("a\xff\xffé\xc3", BpePieces::unicode),
              (std::vector<std::string>{"a", "\xff\xff", "é", "\xc3"}));
    std::string letters;
    for (int i = 0; i < 130; ++i)
        letters += "é";
    EXPECT_EQ(pieces_of(" " + letters, BpePieces::unicode)[0].size(), 1u + 2 * 63);
    EXPECT_EQ(pieces_of(letters, BpePieces::unicode).size(), 3u);
    EXPECT_EQ(pieces_of(std::string(64, ' ') + "x", BpePieces::unicode).back(), " x");
}

// What was trained by earlier versions keeps its kind, its pieces and its ids.
TEST(BpeTokenizer, FilesOfEarlierVersionsGiveTheSameIds) {
    const auto before = Tokenizer::load(R"({"kind":"bpe","merges":[[195,169],[256,226],[257,128],[258,156]]})");
    EXPECT_EQ(before->kind(), "bpe");
    EXPECT_EQ(before->encode("é“"), (std::vector<std::int32_t>{259}));
    EXPECT_EQ(before->save(), R"({"kind":"bpe","merges":[[195,169],[256,226],[257,128],[258,156]]})");
    const auto now = train_tokenizer({"bpe", 258}, "é“é“é“é“");
    EXPECT_EQ(now->kind(), "bpe_unicode");
    EXPECT_EQ(Tokenizer::load(now->save())->encode("é“é“"), now->encode("é“é“"));
    for (const std::int32_t id : now->encode("é“é“"))
        EXPECT_TRUE(now->decode(std::vector{id}) != "é“"); // no token goes over the end of a piece
}

TEST(BpeTraining, KnownMergesOfASmallCorpus) {
    // The example of Sennrich et al. 2016, each word with its leading space. "es" and "st" both occur 9 times, and "es"
    // has the smaller first byte. Then " l", "lo" and "ow" occur 7 times: the space comes first, and what it makes
    // (258) comes after "ow". At last " n", "ne", "ew" and "w" + "est" occur 6 times.
    std::string text;
    for (const auto& [word, times] : {std::pair{" low", 5}, {" lower", 2}, {" newest", 6}, {" widest", 3}})
        for (int i = 0; i < times; ++i)
            text += word;
    const BpeTokenizer tokenizer = tokenizer_of(trained_merges(text, 6));
    std::vector<std::string> made;
    for (std::int32_t id = 256; id < 262; ++id)
        made.push_back(tokenizer.decode({&id, 1}));
    EXPECT_EQ(made, (std::vector<std::string>{"es", "est", " l", "ow", " low", " n"}));
}

RC_GTEST_PROP(BpeTraining, EqualsThePlainTrainer, ()) {
    const std::string text = *dense_text();
    const std::vector<Pair> plain = plain_merges(text, 40);
    RC_ASSERT(trained_merges(text, static_cast<std::int64_t>(plain.size())) == plain);
    if (plain.size() < 40) RC_ASSERT_THROWS_AS(trained_merges(text, 40), ConfigError);
}

RC_GTEST_PROP(BpeTokenizer, EncodesAsTheMergesOneAfterTheOther, ()) {
    const std::vector<Pair> merges = plain_merges(*dense_text(), 60);
    const std::string text = *dense_text();
    Tokens expected;
    for (const std::string& piece : pieces_of(text)) {
        Tokens tokens = bytes_of(piece);
        for (std::size_t merge = 0; merge < merges.size(); ++merge)
            replace_pair(tokens, merges[merge], static_cast<std::int32_t>(256 + merge));
        expected.insert(expected.end(), tokens.begin(), tokens.end());
    }
    const BpeTokenizer tokenizer = tokenizer_of(merges);
    RC_ASSERT(tokenizer.encode(text, "text") == expected);
    RC_ASSERT(tokenizer.decode(expected) == text);
}

TEST(BpeTraining, OverlappingPairsAreCountedRight) {
    std::string text; // long runs of one letter
    for (int i = 0; i < 200; ++i)
        text += std::string(static_cast<std::size_t>(i * 7 % 300 + 1), static_cast<char>('a' + i % 3)) + " ";
    const std::vector<Pair> plain = plain_merges(text, 60);
    EXPECT_EQ(trained_merges(text, 60), plain);
}
