// SPDX-License-Identifier: Apache-2.0
// What every tokenizer of the catalog promises, the character tokenizer's vocabulary, and loading from hostile text.
#include "core/data/tokenizer.hpp"
#include "tests/core/data_files.hpp"

#include <random>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

using namespace tessera;

namespace {

const std::string corpus = "First Citizen:\nBefore we proceed any further, hear me speak. Speak, speak; we'll hear.\n";

std::vector<std::unique_ptr<Tokenizer>> one_of_each() {
    std::vector<std::unique_ptr<Tokenizer>> all;
    all.push_back(train_tokenizer({"byte"}, corpus));
    all.push_back(train_tokenizer({"character"}, corpus));
    all.push_back(train_tokenizer({"bpe", 264}, corpus));
    return all;
}

std::string any_bytes() { return *rc::gen::container<std::string>(rc::gen::arbitrary<char>()); }

} // namespace

TEST(Tokenizer, EachKindGivesItsTextBack) {
    for (const auto& tokenizer : one_of_each()) {
        const std::vector<std::int32_t> tokens = tokenizer->encode(corpus);
        EXPECT_EQ(tokenizer->decode(tokens), corpus) << tokenizer->kind();
        for (const std::int32_t token : tokens)
            ASSERT_TRUE(token >= 0 && token < tokenizer->vocabulary_size());
        EXPECT_TRUE(tokenizer->encode("").empty());
        EXPECT_EQ(tokenizer->decode({}), "");
    }
}

TEST(Tokenizer, EachKindIsLoadedAsItWasSaved) {
    for (const auto& tokenizer : one_of_each()) {
        const auto loaded = Tokenizer::load(tokenizer->save());
        EXPECT_EQ(loaded->kind(), tokenizer->kind());
        EXPECT_EQ(loaded->vocabulary_size(), tokenizer->vocabulary_size());
        EXPECT_EQ(loaded->encode(corpus), tokenizer->encode(corpus));
        EXPECT_EQ(loaded->save(), tokenizer->save());
    }
}

TEST(Tokenizer, EachKindRefusesIdsOutsideItsVocabulary) {
    for (const auto& tokenizer : one_of_each())
        for (const std::int64_t id : {std::int64_t{-1}, tokenizer->vocabulary_size(), std::int64_t{INT32_MAX}}) {
            const auto token = static_cast<std::int32_t>(id);
            EXPECT_THROW(tokenizer->decode({&token, 1}), ConfigError) << tokenizer->kind() << ' ' << id;
        }
}

RC_GTEST_PROP(Tokenizer, BytesRoundTripWhateverTheyAre, ()) {
    const std::string text = any_bytes();
    RC_ASSERT(train_tokenizer({"byte"}, "")->decode(train_tokenizer({"byte"}, "")->encode(text)) == text);
    static const std::unique_ptr<Tokenizer> bpe = train_tokenizer({"bpe", 266}, corpus);
    RC_ASSERT(bpe->decode(bpe->encode(text)) == text);
}

TEST(CharacterTokenizer, TheVocabularyIsTheSortedSetOfCodePoints) {
    const auto tokenizer = train_tokenizer({"character"}, "zé€a😀\n za");
    EXPECT_EQ(tokenizer->vocabulary_size(), 7); // \n, space, a, z, é, €, 😀
    EXPECT_EQ(tokenizer->encode("\n az é€😀"), (std::vector<std::int32_t>{0, 1, 2, 3, 1, 4, 5, 6}));
    EXPECT_EQ(tokenizer->save(), R"({"kind":"character","code_points":[10,32,97,122,233,8364,128512]})");
    EXPECT_EQ(train_tokenizer({"character"}, std::string_view("\0a", 2))->decode(std::array{0, 1, 0}),
              std::string("\0a\0", 3));
}

TEST(CharacterTokenizer, AnUnknownCharacterIsNamedWithItsPlace) {
    const auto tokenizer = train_tokenizer({"character"}, "abc");
    expect_refusal([&] { tokenizer->encode("ab😀c"); },
                   "text: the character '😀' (U+1F600) at byte 2 is not in the vocabulary of 3 characters");
    expect_refusal([&] { tokenizer->encode("ab\n", "prompt"); },
                   "prompt: the character '\\n' (U+000A) at byte 2 is not in the vocabulary of 3 characters");
    expect_refusal([&] { tokenizer->encode(std::string_view("\0", 1)); },
                   "text: the character '\\x00' (U+0000) at byte 0 is not in the vocabulary of 3 characters");
    expect_refusal([] { train_tokenizer({"character"}, ""); },
                   "a character tokenizer cannot be made from an empty corpus");
}

TEST(CharacterTokenizer, InvalidUtf8IsRefusedWhereItStands) {
    // A lone continuation, overlong forms, a surrogate, beyond U+10FFFF, cut short, and a lead byte that never is.
    for (const std::string wrong : {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                                    "\xf4\x90\x80\x80", "\xe2\x82", "\xc3", "\xc3z", "\xf5\x80\x80\x80", "\xff"})
        expect_refusal([&] { train_tokenizer({"character"}, "ab" + wrong); },
                       "corpus: byte 2 (0x" +
                           std::string(1, "0123456789abcdef"[static_cast<unsigned char>(wrong[0]) >> 4]) +
                           std::string(1, "0123456789abcdef"[wrong[0] & 15]) +
                           ") is not valid UTF-8; convert the text, or use the tokenizer 'byte' or 'bpe'");
    for (const std::string right :
         {"\x7f", "\xc2\x80", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xf4\x8f\xbf\xbf"})
        EXPECT_EQ(train_tokenizer({"character"}, right)->decode(std::array{0}), right);
}

TEST(Tokenizer, TrainingRefusesWhatItCannotMake) {
    expect_refusal([] { train_tokenizer({"charcter"}, "abc"); },
                   "no tokenizer named 'charcter'; did you mean 'character'?");
    expect_refusal(
        [] {
            train_tokenizer({"character", 65}, "abc");
        },
        "vocabulary_size is a choice for the tokenizers 'bpe', 'word' and 'wordpiece' only; 'character' and 'byte' "
        "have their own (found 65 with 'character')");
    expect_refusal(
        [] {
            train_tokenizer({"bpe", 255}, "abc");
        },
        "a bpe tokenizer has from 256 (the bytes) to 262144 tokens; vocabulary_size is 255");
    expect_refusal(
        [] {
            train_tokenizer({"bpe", 1000}, "abab abab");
        }, // ab; abab; " " + abab occurs once
        "the corpus gives a bpe tokenizer of 258 tokens at most (no pair is left that occurs twice); "
        "vocabulary_size is 1000");
}

TEST(Tokenizer, LoadingRefusesWhatIsNoTokenizer) {
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"", "tokenizer: the text is not JSON (byte 1)"},
        {"{\"kind\":", "tokenizer: the text is not JSON (byte 9)"},
        {"\xff", "tokenizer: the text is not JSON (byte 1)"},
        {"[]", "tokenizer: the JSON is no object"},
        {"{}", "tokenizer: there is no string 'kind'"},
        {R"({"kind":3})", "tokenizer: there is no string 'kind'"},
        {R"({"kind":"bite"})", "no tokenizer named 'bite'; did you mean 'byte'?"},
        {R"({"kind":"byte","size":9})", "tokenizer: unknown key 'size' of the kind 'byte'"},
        {R"({"kind":"character"})", "tokenizer: there is no array 'code_points'"},
        {R"({"kind":"character","code_points":"abc"})", "tokenizer: there is no array 'code_points'"},
        {R"({"kind":"character","code_points":[]})", "tokenizer: 'code_points' is empty"},
        {R"({"kind":"character","code_points":[1,-2]})",
         "tokenizer: entry 1 of 'code_points' holds something that is no id"},
        {R"({"kind":"character","code_points":[5,5]})", "tokenizer: the code points must ascend, 5 follows 5"},
        {R"({"kind":"character","code_points":[55296]})", "tokenizer: 55296 is no Unicode code point"},
        {R"({"kind":"character","code_points":[18446744073709551615]})",
         "tokenizer: 18446744073709551615 is no Unicode code point"},
        {R"({"kind":"character","code_points":[[1]]})",
         "tokenizer: entry 0 of 'code_points' holds something that is no id"},
        {R"({"kind":"character","code_points":[1],"code_points":[2]})",
         "tokenizer: the key 'code_points' stands there twice"},
        {R"({"kind":"byte","a":[[[[[[[[[1]]]]]]]]]})", "tokenizer: JSON nested more than 8 deep"},
        {R"({"kind":"bpe","merges":[7]})", "tokenizer: entry 0 of 'merges' is no pair"},
        {R"({"kind":"bpe","merges":[[1,2,3]]})", "tokenizer: entry 0 of 'merges' is no pair"},
        {R"({"kind":"bpe","merges":[[1,2.5]]})", "tokenizer: entry 0 of 'merges' holds something that is no id"},
        {R"({"kind":"bpe","merges":[[1,4294967297]]})", "tokenizer: merge 0 joins the tokens 1 and 4294967297"},
        {R"({"kind":"bpe","merges":[[1,256]]})",
         "bpe tokenizer: merge 0 joins the tokens 1 and 256, only 0 to 255 exist there"},
        {R"({"kind":"bpe","merges":[[1,2],[1,2]]})", "bpe tokenizer: merge 1 joins the tokens 1 and 2 a second time"},
        {R"({"kind":"bpe","merges":[[1,1],[256,256],[257,257],[258,258],[259,259],[260,260],[261,261],[262,262],[263,263]]})",
         "bpe tokenizer: merge 8 makes a token of 512 bytes, at most 256 are allowed"},
    };
    for (const auto& [json, message] : cases)
        expect_refusal([&text = json] { Tokenizer::load(text); }, message);
    expect_refusal([] { Tokenizer::load(std::string((16 << 20) + 1, ' ')); },
                   "tokenizer: 16777217 bytes of JSON, at most 16777216 are read");
    EXPECT_THROW(Tokenizer::load(std::string(1 << 20, '[')), ConfigError);
    EXPECT_THROW(Tokenizer::load("{\"kind\":\"" + std::string(1 << 20, 'x') + "\"}"), ConfigError);
}

TEST(Tokenizer, MutatedTextsLoadOrAreRefused) {
    std::mt19937 random(1); // NOLINT: the same mutants each time
    int refused = 0;
    for (const auto& tokenizer : one_of_each())
        for (int round = 0; round < 1500; ++round) {
            std::string json = tokenizer->save();
            for (std::uint32_t i = 0; i <= random() % 3; ++i) {
                const std::size_t at = random() % json.size();
                const char byte = "0123456789,[]{}\"-.e \xff"[random() % 21];
                random() % 3 == 0 ? json.erase(at, 1 + random() % 4) : json.replace(at, 1, 1, byte);
                if (json.empty()) break;
            }
            try {
                const auto loaded = Tokenizer::load(json);
                EXPECT_EQ(Tokenizer::load(loaded->save())->save(), loaded->save());
            } catch (const ConfigError&) {
                ++refused;
            }
        }
    EXPECT_GT(refused, 1500);
    EXPECT_LT(refused, 4500);
}
