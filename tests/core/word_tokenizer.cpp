// SPDX-License-Identifier: Apache-2.0
// Words: where text is cut, which are kept, how they are put together again, and JSON from anybody.
#include "core/data/data_error.hpp"
#include "core/data/tokenizer.hpp"
#include "kernels/error.hpp"

#include <gmock/gmock.h>

using namespace tessera;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace {

constexpr std::string_view corpus = "And God said, Let there be light:\nand there was light. And God's day-star\n";

// What is left of a text whose words are all known.
std::string there_and_back(std::string_view text) {
    const auto tokenizer = train_tokenizer({"word", 0}, text);
    return tokenizer->decode(tokenizer->encode(text));
}

} // namespace

TEST(WordTokenizer, KeepsTheMostFrequentWords) {
    const auto all = train_tokenizer({"word", 0}, corpus);
    EXPECT_EQ(all->vocabulary_size(), 16);
    // "And", "light" and "there" twice, then the others in the order of their bytes.
    const auto five = train_tokenizer({"word", 6}, corpus);
    EXPECT_EQ(five->encode("And light there ,\nwas", "text"), (std::vector<std::int32_t>{2, 3, 4, 5, 1, 0}));
    EXPECT_EQ(five->decode(std::vector<std::int32_t>{2, 3, 5, 4, 1, 2, 0}), "And light, there\nAnd <unk>");
    EXPECT_EQ(five->encode("<unk> And", "text"), (std::vector<std::int32_t>{0, 2}));
}

TEST(WordTokenizer, PutsWordsTogetherAgain) {
    EXPECT_EQ(there_and_back(corpus), corpus);
    for (const std::string_view text : {"(a) b-c, d's [e]: f!\n\ng\n", "Größe, 日本 «x» “quoted” — 3.5%", "' '' --"})
        EXPECT_EQ(there_and_back(there_and_back(text)), there_and_back(text)) << text;
    EXPECT_EQ(there_and_back("  a \t b\r\n c"), "a b\nc");
    EXPECT_EQ(there_and_back("end's' -x- a-"), "end's' - x - a -");
}

TEST(WordTokenizer, IsSavedAndLoaded) {
    const auto made = train_tokenizer({"word", 0}, "é \" \\ a\nb 日本");
    const auto loaded = Tokenizer::load(made->save());
    EXPECT_EQ(loaded->save(), made->save());
    EXPECT_EQ(loaded->encode("日本 \" é", "text"), made->encode("日本 \" é", "text"));
}

TEST(WordTokenizer, RefusesWhatItCannotTake) {
    const auto refusal = [](auto call, const std::string& sentence) {
        EXPECT_THAT(call, ThrowsMessage<ConfigError>(HasSubstr(sentence)));
    };
    refusal([] { train_tokenizer({"word", 2}, "a b"); }, "a vocabulary of 2 words, expected at least 3");
    refusal(
        [] {
            train_tokenizer({"word", 5}, "a b a");
        },
        "the corpus has 2 different words, with <unk> and <eos> 4: too few for a vocabulary of 5");
    EXPECT_THROW(train_tokenizer({"word", 0}, " \n "), DataError);
    EXPECT_THROW(train_tokenizer({"word", 0}, "a \xff b"), DataError);
    const auto words = train_tokenizer({"word", 0}, "a b");
    refusal([&] { words->encode("a \xc3", "here"); }, "here");
    refusal([&] { words->decode(std::vector<std::int32_t>{4}); }, "token 4 is not in the vocabulary of 4 words");
    refusal([] { Tokenizer::load(R"({"kind":"word","words":["a"]})"); }, "does not begin with <unk> and <eos>");
    refusal([] { Tokenizer::load(R"({"kind":"word","words":["<unk>","<eos>","a","a"]})"); },
            "the word 'a' stands there twice");
    refusal([] { Tokenizer::load(R"({"kind":"word","words":["<unk>","<eos>",""]})"); },
            "entry 2 of 'words' is no word");
    refusal([] { Tokenizer::load(R"({"kind":"word","words":["<unk>",7]})"); }, "entry 1 of 'words' is no word");
    refusal([] { Tokenizer::load(R"({"kind":"word","words":["<unk>",["<eos>"]]})"); }, "is no word");
    refusal([] { Tokenizer::load(R"({"kind":"word"})"); }, "there is no array 'words'");
}
