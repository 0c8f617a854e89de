// SPDX-License-Identifier: Apache-2.0
// Tokenizers of others, by what their own libraries made of the same lines (tests/core/golden/tokenizers: six small
// ones trained by Hugging Face's `tokenizers` 0.21.0, one by SentencePiece 0.1.97; lines with Chinese, emoji, combining
// marks, right-to-left scripts, odd white space and special tokens among them).
#include "core/data/huggingface/tokenizer.hpp"
#include "core/data/mapped_file.hpp"
#include "tests/core/data_files.hpp"

#include <algorithm>
#include <map>

using namespace tessera;

namespace {

const std::string golden = std::string(GOLDEN_FOLDER) + "/tokenizers/";

std::string content(const std::string& path) { return std::string(MappedFile(path).text()); }
JsonValue json_file(const std::string& path) { return parse_json(content(path), path); }

std::vector<std::int32_t> numbers(const JsonValue& list) {
    std::vector<std::int32_t> values;
    for (const JsonValue& item : list.items)
        values.push_back(static_cast<std::int32_t>(item.number));
    return values;
}

// Ids as theirs, also by what save() keeps; texts as theirs, which have U+FFFD where we leave bytes as they are.
void expect_theirs(const Tokenizer& tokenizer, const JsonValue& lines, const JsonValue& theirs) {
    const JsonValue &ids = *theirs.find("ids"), &texts = *theirs.find("decoded");
    ASSERT_EQ(lines.items.size(), ids.items.size());
    const auto again = Tokenizer::load(tokenizer.save());
    ASSERT_EQ(again->save(), tokenizer.save());
    for (std::size_t i = 0; i < ids.items.size(); ++i) {
        const std::string& line = lines.items[i].text;
        const std::vector<std::int32_t> wanted = numbers(ids.items[i]);
        ASSERT_EQ(tokenizer.encode(line), wanted) << line;
        ASSERT_EQ(again->encode(line), wanted) << line;
        if (texts.items[i].text.find("\xEF\xBF\xBD") == std::string::npos) {
            ASSERT_EQ(tokenizer.decode(wanted), texts.items[i].text);
        }
    }
}

} // namespace

TEST(TokenizerFiles, IdsAreHuggingFaces) {
    const JsonValue lines = json_file(golden + "lines.json");
    for (const std::string name : {"gpt2", "llama3", "llama2", "metaspace", "bert", "bert_cased"}) {
        SCOPED_TRACE(name);
        expect_theirs(*Tokenizer::open(golden + name + ".json"), lines, json_file(golden + name + ".ids.json"));
    }
}

TEST(TokenizerFiles, IdsAreSentencePieces) {
    const auto tokenizer = Tokenizer::open(golden + "spiece.model");
    const JsonValue theirs = json_file(golden + "spiece.ids.json");
    expect_theirs(*tokenizer, *theirs.find("lines"), theirs);
    EXPECT_EQ(tokenizer->id_of("</s>"), 1);
    EXPECT_EQ(tokenizer->around().after, std::vector<std::int32_t>{1}); // as T5's
}

TEST(TokenizerFiles, SpecialTokensByName) {
    const auto bert = Tokenizer::open(golden + "bert.json"), llama = Tokenizer::open(golden + "llama3.json");
    EXPECT_EQ(bert->id_of("[MASK]"), 4);
    EXPECT_EQ(bert->id_of("[MISK]"), std::nullopt);
    EXPECT_EQ(bert->around().before, std::vector<std::int32_t>{2});
    EXPECT_EQ(bert->around().after, std::vector<std::int32_t>{3});
    EXPECT_EQ(llama->around().before, std::vector<std::int32_t>{0});
    EXPECT_TRUE(llama->around().after.empty());
}

// vocab.json with merges.txt, and vocab.txt, stand for the same tokenizer.json.
TEST(TokenizerFiles, OlderFilesGiveTheSameIds) {
    const TestFolder folder;
    const JsonValue gpt2 = json_file(golden + "gpt2.json"), bert = json_file(golden + "bert_cased.json");
    std::string merges = "#version: 0.2\n", words;
    for (const JsonValue& merge : gpt2.find("model")->find("merges")->items)
        merges += merge.items[0].text + " " + merge.items[1].text + "\n";
    std::map<double, std::string> by_id;
    const JsonValue& vocabulary = *bert.find("model")->find("vocab");
    for (std::size_t i = 0; i < vocabulary.items.size(); ++i)
        by_id[vocabulary.items[i].number] = vocabulary.names[i];
    for (const auto& [id, word] : by_id)
        words += word + "\n";
    folder.write("vocab.json", json_text(*gpt2.find("model")->find("vocab")));
    folder.write("merges.txt", merges);
    const JsonValue lines = json_file(golden + "lines.json");
    expect_theirs(*Tokenizer::open(folder.path("")), lines, json_file(golden + "gpt2.ids.json"));
    folder.write("tokenizer_config.json", R"({"do_lower_case": false})");
    const std::string path = folder.write("vocab.txt", words);
    expect_theirs(*Tokenizer::open(path), lines, json_file(golden + "bert_cased.ids.json"));
}

// Counted by hand: "ab" begins four words, then "abc" two; pieces inside a word wear "##".
TEST(TokenizerFiles, TrainsWordPieces) {
    const std::string corpus = "abc abc abd xabc ab. 世界";
    const TokenizerOptions options{.kind = "wordpiece", .vocabulary_size = 16};
    const auto tokenizer = train_tokenizer(options, corpus);
    EXPECT_EQ(tokenizer->vocabulary_size(), 16);
    for (const char* token : {"##c", "##d", "##a", "##b", ".", "a", "x", "世", "界", "ab", "abc"})
        EXPECT_TRUE(tokenizer->id_of(token)) << token;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode("abc abd 世界")), "abc abd 世 界");
    EXPECT_EQ(tokenizer->encode("abc"), std::vector<std::int32_t>{*tokenizer->id_of("abc")});
    EXPECT_EQ(tokenizer->encode("Q"), std::vector<std::int32_t>{*tokenizer->id_of("[UNK]")});
    EXPECT_EQ(Tokenizer::load(tokenizer->save())->save(), tokenizer->save());
    EXPECT_THROW(train_tokenizer({.kind = "wordpiece", .vocabulary_size = 5}, corpus), ConfigError);
    EXPECT_THROW(train_tokenizer({.kind = "wordpiece", .vocabulary_size = 5000}, corpus), ConfigError);
}

TEST(TokenizerFiles, RefusalsSayWhatIsWrong) {
    const TestFolder folder;
    const auto refused = [&](const std::string& name, const std::string& text, const std::string& why) {
        const std::string path = folder.write(name, text);
        expect_refusal([&] { Tokenizer::open(path); }, path + ": " + why);
    };
    refused("a.json", "[1", "tokenizer: the text is not JSON (byte 3)");
    refused("a.json", "{}", "tokenizer: the JSON has no object 'model'");
    refused("a.json", R"({"model": {"type": "Unigram", "vocab": {"a": 0}}})",
            "tokenizer: the model 'Unigram' is SentencePiece's: name its model (spiece.model or tokenizer.model) "
            "instead of "
            "tokenizer.json");
    refused("a.json", R"({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}})",
            "tokenizer: the id of 'a' is no number from 0 to 2097151");
    refused("a.json", R"({"model": {"type": "BPE", "vocab": {"a": 2000000}, "merges": []}})",
            "tokenizer: 1 tokens have ids up to 2000000: most ids have no token");
    refused("a.json", R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}})",
            "tokenizer: merge 0 names 'b', which is not in the vocabulary");
    refused("a.json", R"({"model": {"type": "WordPiece", "vocab": {"a": 0}}})",
            "tokenizer: the unknown token '[UNK]' is not in the vocabulary");
    refused("a.json", R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "normalizer": {"type": "NFX"}})",
            "tokenizer: no normalizer named 'NFX'; did you mean 'NFC'?");
    refused(
        "a.json",
        R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}})",
        "'(' is no regular expression: end pattern with unmatched parenthesis");
    refused("a.model", "no model", "tokenizer: this is no SentencePiece model");
    refused("a.bin", "what", "a tokenizer's file is named .json, .model or .txt");
    expect_refusal([&] { Tokenizer::open(folder.path("none.json")); },
                   folder.path("none.json") + ": there is no such file");
    const auto tokenizer = Tokenizer::open(golden + "gpt2.json");
    expect_refusal([&] { (void)tokenizer->encode("ab\xff", "x.txt"); },
                   "x.txt: byte 2 (0xff) is not valid UTF-8; convert the text, or use the tokenizer 'byte' or 'bpe'");
}
