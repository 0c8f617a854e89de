// SPDX-License-Identifier: Apache-2.0
// Datasets from files written byte by byte: windows, splits, fingerprints, and each refusal by its words.
#include "core/data/dataset.hpp"
#include "tests/core/data_files.hpp"

#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <thread>
#include <unistd.h>

using namespace tessera;

namespace {

struct Window {
    std::vector<std::int32_t> tokens;
    std::vector<std::int32_t> targets;
};

Window read(const Dataset& dataset, Split split, std::int64_t sample) {
    const std::int64_t length = dataset.form().fields[0].shape[0];
    Window window{std::vector<std::int32_t>(static_cast<std::size_t>(length), -1),
                  std::vector<std::int32_t>(static_cast<std::size_t>(length), -1)};
    dataset.read(split, sample,
                 std::array{View(window.tokens.data(), Shape{length}, DType::i32),
                            View(window.targets.data(), Shape{length}, DType::i32)});
    return window;
}

DatasetOptions files(std::string reader, std::vector<std::string> paths, std::int64_t length, double fraction = 0) {
    DatasetOptions options;
    options.reader = std::move(reader);
    options.files = std::move(paths);
    options.sequence_length = length;
    options.validation_fraction = fraction;
    return options;
}

std::vector<std::uint32_t> counting(std::uint32_t begin, std::uint32_t end) {
    std::vector<std::uint32_t> tokens(end - begin);
    std::iota(tokens.begin(), tokens.end(), begin);
    return tokens;
}

} // namespace

TEST(TextReader, WindowsAndTargetsOfCharacters) {
    const TestFolder folder;
    const auto dataset = open_dataset(files("text", {folder.write("a.txt", "cabbed")}, 3));
    ASSERT_EQ(dataset->form().fields.size(), 2u);
    EXPECT_EQ(dataset->form().fields[0].name, "tokens");
    EXPECT_EQ(dataset->form().fields[1].name, "targets");
    EXPECT_EQ(dataset->form().fields[1].shape, Shape{3});
    EXPECT_EQ(dataset->form().classes, 5); // a b c d e
    EXPECT_EQ(dataset->samples(Split::train), 3);
    EXPECT_EQ(dataset->samples(Split::validation), 0);
    EXPECT_EQ(read(*dataset, Split::train, 0).tokens, (std::vector<std::int32_t>{2, 0, 1}));
    EXPECT_EQ(read(*dataset, Split::train, 2).tokens, (std::vector<std::int32_t>{1, 1, 4}));
    EXPECT_EQ(read(*dataset, Split::train, 2).targets, (std::vector<std::int32_t>{1, 4, 3}));
    EXPECT_EQ(dataset->tokenizer()->decode(read(*dataset, Split::train, 1).targets), "bbe");
    EXPECT_THROW(read(*dataset, Split::train, 3), InternalError);
    EXPECT_THROW(read(*dataset, Split::train, -1), InternalError);
    EXPECT_THROW(read(*dataset, Split::validation, 0), InternalError);
    EXPECT_THROW(dataset->read(Split::train, 0, {}), InternalError);
}

TEST(TextReader, SplitsAsNanoGptDoes) {
    const TestFolder folder;
    std::string text;
    for (int i = 0; i < 1115; ++i)
        text.push_back(static_cast<char>('a' + i * i % 26));
    const auto dataset = open_dataset(files("text", {folder.write("a.txt", text)}, 8, 0.1));
    EXPECT_EQ(dataset->samples(Split::train), 1003 - 8); // int(0.9 * 1115) characters
    EXPECT_EQ(dataset->samples(Split::validation), 112 - 8);
    const Tokenizer& tokenizer = *dataset->tokenizer();
    EXPECT_EQ(tokenizer.decode(read(*dataset, Split::validation, 0).tokens), text.substr(1003, 8));
    EXPECT_EQ(tokenizer.decode(read(*dataset, Split::train, 994).targets), text.substr(995, 8));
}

TEST(TextReader, JoinsFilesAndPatternsInTheirOrder) {
    const TestFolder folder;
    folder.write("part-10.txt", "three");
    folder.write("part-02.txt", "two");
    const std::string first = folder.write("odd[name].txt", "one"); // a file, though it looks like a pattern
    DatasetOptions options = files("text", {first, folder.path("part-*.txt")}, 10);
    options.tokenizer.kind = "byte";
    options.validation_files = {folder.write("other.txt", "zzzzzzzzzzzz")};
    const auto dataset = open_dataset(options);
    ASSERT_EQ(dataset->samples(Split::train), 1);
    EXPECT_EQ(dataset->tokenizer()->decode(read(*dataset, Split::train, 0).tokens), "onetwothre");
    EXPECT_EQ(dataset->samples(Split::validation), 2);
}

TEST(TextReader, TakesTheTokenizerOfACheckpoint) {
    const TestFolder folder;
    DatasetOptions options = files("text", {folder.write("a.txt", "abcabc")}, 2);
    options.tokenizer_json = train_tokenizer({}, "abcdefgh")->save();
    EXPECT_EQ(open_dataset(options)->form().classes, 8);
    const std::string path = folder.write("b.txt", "ab\xc3\xa9");
    options.files = {path};
    expect_refusal([&] { open_dataset(options); },
                   path + ": the character 'é' (U+00E9) at byte 2 is not in the vocabulary of 8 characters");
}

TEST(TextReader, WideVocabulariesKeepTheirTokens) {
    const TestFolder folder;
    std::string text; // 66,000 different characters do not fit into 16 bits
    for (std::uint32_t point = 0x10000; point < 0x10000 + 66000; ++point)
        for (const std::uint32_t byte :
             {0xf0u | point >> 18, 0x80u | (point >> 12 & 63), 0x80u | (point >> 6 & 63), 0x80u | (point & 63)})
            text.push_back(static_cast<char>(byte));
    const auto dataset = open_dataset(files("text", {folder.write("wide.txt", text)}, 2));
    EXPECT_EQ(dataset->form().classes, 66000);
    EXPECT_EQ(read(*dataset, Split::train, 65997).targets, (std::vector<std::int32_t>{65998, 65999}));
}

TEST(TokenFiles, BothFormatsAreReadAndWindowsStayInTheirFile) {
    const TestFolder folder;
    const std::vector<std::uint32_t> tokens = {7, 50256, 0, 3, 1};
    const std::string gpt2 = folder.write("a.bin", token_file(tokens));
    const std::string more = folder.write("b.bin", token_file({100, 200, 300, 400}));
    const auto dataset = open_dataset(files("tokens", {gpt2, more}, 3));
    EXPECT_EQ(dataset->form().classes, 50257);
    EXPECT_EQ(dataset->tokenizer(), nullptr);
    ASSERT_EQ(dataset->samples(Split::train), 2 + 1);
    EXPECT_EQ(read(*dataset, Split::train, 0).tokens, (std::vector<std::int32_t>{7, 50256, 0}));
    EXPECT_EQ(read(*dataset, Split::train, 1).targets, (std::vector<std::int32_t>{0, 3, 1}));
    EXPECT_EQ(read(*dataset, Split::train, 2).tokens, (std::vector<std::int32_t>{100, 200, 300}));
    EXPECT_EQ(read(*dataset, Split::train, 2).targets, (std::vector<std::int32_t>{200, 300, 400}));

    const std::string llama = folder.write("c.bin", token_file({128000, 70000, 5}, 20240801, 7));
    const auto wide = open_dataset(files("tokens", {llama}, 2));
    EXPECT_EQ(wide->form().classes, 128256);
    EXPECT_EQ(read(*wide, Split::train, 0).tokens, (std::vector<std::int32_t>{128000, 70000}));
    expect_refusal(
        [&] {
            open_dataset(files("tokens", {gpt2, llama}, 2));
        },
        llama + ": holds Llama 3 tokens, the files before it GPT-2 tokens");
}

// The last tenth of 100 tokens in files of 46, 46 and 8: the split falls into the second file, and the third has no
// room for a window of 8 but belongs to a part that has one... so every window is checked against the tokens
// themselves.
TEST(TokenFiles, TheSplitFallsInsideAFile) {
    const TestFolder folder;
    const std::string a = folder.write("a.bin", token_file(counting(0, 40)));
    const std::string b = folder.write("b.bin", token_file(counting(40, 94)));
    const std::string c = folder.write("c.bin", token_file(counting(94, 100)));
    const auto dataset = open_dataset(files("tokens", {a, b, c}, 5, 0.25));
    ASSERT_EQ(dataset->samples(Split::train), 35 + 30);
    ASSERT_EQ(dataset->samples(Split::validation), 14 + 1);
    const auto starts = [&](Split split, std::int64_t sample) {
        const Window window = read(*dataset, split, sample);
        for (std::size_t i = 0; i < 5; ++i) {
            EXPECT_EQ(window.tokens[i], window.tokens[0] + static_cast<int>(i));
            EXPECT_EQ(window.targets[i], window.tokens[i] + 1);
        }
        return window.tokens[0];
    };
    for (std::int64_t i = 0; i < 35; ++i)
        EXPECT_EQ(starts(Split::train, i), i);
    for (std::int64_t i = 35; i < 65; ++i)
        EXPECT_EQ(starts(Split::train, i), i + 5);
    for (std::int64_t i = 0; i < 14; ++i)
        EXPECT_EQ(starts(Split::validation, i), 75 + i);
    EXPECT_EQ(starts(Split::validation, 14), 94);
}

TEST(TokenFiles, ATokenBeyondTheVocabularyIsNamed) {
    const TestFolder folder;
    const std::string path = folder.write("a.bin", token_file({1, 2, 3, 4, 60000, 5, 6}));
    const auto dataset = open_dataset(files("tokens", {path}, 2));
    EXPECT_EQ(read(*dataset, Split::train, 1).targets, (std::vector<std::int32_t>{3, 4}));
    for (const std::int64_t sample : {2, 3, 4})
        expect_refusal([&] { read(*dataset, Split::train, sample); },
                       path + ": token number 4 is 60000, beyond the vocabulary of 50257");
    const auto halves = open_dataset(files("tokens", {path}, 2, 0.5)); // tokens 3 to 6 validate
    expect_refusal([&] { read(*halves, Split::validation, 0); },
                   path + ": token number 4 is 60000, beyond the vocabulary of 50257");
    DatasetOptions options = files("tokens", {path}, 2);
    options.token_vocabulary = 60001;
    EXPECT_EQ(read(*open_dataset(options), Split::train, 4).tokens, (std::vector<std::int32_t>{60000, 5}));
    options.tokenizer_json = R"({"kind":"byte"})";
    expect_refusal([&] { open_dataset(options); }, "token_vocabulary is 60001, but the tokenizer has 256 tokens");
    options.token_vocabulary = 0;
    EXPECT_EQ(open_dataset(options)->form().classes, 256);
}

TEST(TokenFiles, DamagedHeadersAreRefused) {
    const TestFolder folder;
    const auto refuse = [&](const std::string& content, const std::string& message) {
        const std::string path = folder.write("x.bin", content);
        expect_refusal([&] { open_dataset(files("tokens", {path}, 2)); }, path + message);
    };
    const std::vector<std::uint32_t> tokens = counting(0, 10);
    const std::string good = token_file(tokens);
    refuse(token_file(tokens, 5), ": not a token file (magic 5, expected 20240520 or 20240801)");
    refuse(token_file(tokens, 20240520, 2), ": version 2 of this format, expected 1");
    refuse(good.substr(0, 100), ": not a token file (100 bytes, the header alone has 1024)");
    refuse(good.substr(0, 1040), ": the header says 10 tokens of 2 bytes, but 16 bytes follow it (truncated)");
    refuse(good + "more", ": the header says 10 tokens of 2 bytes, but 24 bytes follow it (damaged)");
    std::string negative = good;
    negative.replace(8, 4, "\xff\xff\xff\xff", 4);
    refuse(negative, ": the header says -1 tokens of 2 bytes, but 20 bytes follow it (damaged)");
    refuse(token_file({1, 2}), " has 2 tokens, a window of 2 needs 3");
}

TEST(DataFiles, WhatCannotBeReadIsRefusedWithItsPath) {
    const TestFolder folder;
    const std::string missing = folder.path("missing.txt");
    const std::string directory = folder.path("folder");
    const std::string empty = folder.write("empty.txt", "");
    const std::string shut = folder.write("shut.txt", "nobody reads this");
    std::filesystem::create_directory(directory);
    for (const std::string reader : {"text", "tokens"}) {
        const auto refuse = [&](const std::string& path, const std::string& message) {
            expect_refusal([&] { open_dataset(files(reader, {path}, 4)); }, message);
        };
        refuse(missing, missing + ": there is no such file");
        refuse(directory, directory + ": this is a directory, expected a file");
        refuse(empty, empty + ": the file is empty");
        refuse("/dev/null", "/dev/null: this is no regular file");
        refuse(folder.path("*.nothing"), folder.path("*.nothing") + ": no file matches this pattern");
        expect_refusal([&] { open_dataset(files(reader, {}, 4)); },
                       "the reader '" + reader + "' needs files, none are given");
    }
    // Root may read everything, so the test takes off that hat for a moment.
    std::filesystem::permissions(shut, std::filesystem::perms::none);
    std::filesystem::permissions(std::filesystem::path(shut).parent_path(), std::filesystem::perms::all);
    const uid_t user = geteuid();
    if (user == 0) {
        ASSERT_EQ(seteuid(65534), 0);
    }
    expect_refusal([&] { open_dataset(files("text", {shut}, 4)); }, shut + ": no permission to read this file");
    if (user == 0) {
        ASSERT_EQ(seteuid(user), 0);
    }
}

TEST(DataFiles, OptionsThatCannotBeAreRefused) {
    const TestFolder folder;
    const std::string path = folder.write("corpus.txt", std::string(40, 'x'));
    expect_refusal([&] { open_dataset(files("text", {path}, 64)); },
                   path + " has 40 tokens for training, a window of 64 needs 65");
    expect_refusal([&] { open_dataset(files("text", {path}, 10, 0.1)); },
                   path + " has 4 tokens for validation, a window of 10 needs 11");
    expect_refusal([&] { open_dataset(files("text", {path}, 4, 1.0)); },
                   "validation_fraction is 1, expected from 0 to less than 1");
    expect_refusal([&] { open_dataset(files("text", {path}, 4, std::nan(""))); },
                   "validation_fraction is nan, expected from 0 to less than 1");
    expect_refusal([&] { open_dataset(files("text", {path}, 0)); },
                   "sequence_length is 0, expected from 1 to 1073741824");
    expect_refusal([&] { open_dataset(files("txt", {path}, 4)); }, "no reader named 'txt'; did you mean 'text'?");
    const std::string latin = folder.write("latin.txt", "caf\xe9 au lait");
    expect_refusal([&] { open_dataset(files("text", {latin}, 4)); },
                   latin +
                       ": byte 3 (0xe9) is not valid UTF-8; convert the text, or use the tokenizer 'byte' or 'bpe'");
    expect_refusal([&] { open_dataset(files("synthetic", {path}, 4)); },
                   "the reader 'synthetic' makes its data itself, but files are given; did you mean 'text'?");
}

TEST(Synthetic, IsDeterministicAndHasTheEntropyItSays) {
    DatasetOptions options;
    options.reader = "synthetic";
    options.sequence_length = 1;
    options.synthetic_tokens = 200001;
    options.synthetic_vocabulary = 16;
    options.validation_fraction = 0;
    const auto dataset = open_dataset(options);
    const std::int64_t count = dataset->samples(Split::train);
    ASSERT_EQ(count, 200000);
    std::map<std::int32_t, std::map<std::int32_t, double>> follows;
    for (std::int64_t i = 0; i < count; ++i) {
        const Window pair = read(*dataset, Split::train, i);
        ++follows[pair.tokens[0]][pair.targets[0]];
    }
    EXPECT_EQ(follows.size(), 16u); // every token is reached
    double nats = 0;
    for (const auto& [token, next] : follows) {
        double total = 0;
        for (const auto& [target, times] : next)
            total += times;
        EXPECT_LE(next.size(), 4u);
        for (const auto& [target, times] : next)
            nats -= times / static_cast<double>(count) * std::log(times / total);
    }
    EXPECT_LT(nats, 1.2131);
    EXPECT_GT(nats, 0.9); // of 16 tokens, some have two equal successors
    EXPECT_EQ(open_dataset(options)->fingerprint(), dataset->fingerprint());
    options.seed = 2;
    EXPECT_NE(open_dataset(options)->fingerprint(), dataset->fingerprint());
    options.synthetic_vocabulary = 1;
    expect_refusal([&] { open_dataset(options); }, "synthetic_vocabulary is 1, expected from 2 to 1048576");
}

TEST(Fingerprint, ChangesWithTheContentOnly) {
    const TestFolder folder;
    const std::string text = "the quick brown fox jumps over the lazy dog";
    const auto fingerprint = [&](const std::string& name, const std::string& content, std::int64_t length) {
        return open_dataset(files("text", {folder.write(name, content)}, length, 0.5))->fingerprint();
    };
    const std::string original = fingerprint("a.txt", text, 4);
    EXPECT_EQ(original.size(), 32u);
    EXPECT_EQ(fingerprint("b.txt", text, 5), original); // neither the name nor the window is content
    std::string swapped = text;
    std::swap(swapped[4], swapped[5]);
    EXPECT_NE(fingerprint("a.txt", swapped, 4), original);
    std::string renamed = text; // the same ids for other characters
    for (char& letter : renamed)
        if (letter == 'z') letter = '{';
    EXPECT_NE(fingerprint("a.txt", renamed, 4), original);
    EXPECT_NE(fingerprint("a.txt", text + "s", 4), original);
}

TEST(Fingerprint, ReadsAndHashesFromManyThreads) {
    DatasetOptions options;
    options.reader = "synthetic";
    options.synthetic_tokens = 20000;
    const auto dataset = open_dataset(options);
    const Window expected = read(*dataset, Split::train, 123);
    const std::string fingerprint = open_dataset(options)->fingerprint();
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 4; ++thread)
        threads.emplace_back([&] {
            EXPECT_EQ(dataset->fingerprint(), fingerprint);
            for (int i = 0; i < 1000; ++i)
                EXPECT_EQ(read(*dataset, Split::train, 123).targets, expected.targets);
        });
}

// Damaged headers and sizes either open or are refused with a sentence; nothing else.
TEST(TokenFiles, MutatedFilesNeverDoWorse) {
    const TestFolder folder;
    std::mt19937 random(1); // NOLINT: the same mutants each time
    const std::string good = token_file(counting(0, 50));
    int refused = 0;
    for (int round = 0; round < 500; ++round) {
        std::string bytes = good.substr(0, round % 3 == 0 ? random() % good.size() : good.size());
        for (std::uint32_t i = 0; i < random() % 4 && !bytes.empty(); ++i)
            bytes[random() % (random() % 2 == 0 ? std::min<std::size_t>(16, bytes.size()) : bytes.size())] =
                static_cast<char>(random());
        const std::string path = folder.write("x.bin", bytes);
        try {
            const auto dataset = open_dataset(files("tokens", {path}, 4));
            for (std::int64_t sample = 0; sample < dataset->samples(Split::train); ++sample)
                read(*dataset, Split::train, sample);
        } catch (const ConfigError& refusal) {
            EXPECT_EQ(std::string(refusal.what()).rfind(path, 0), 0u);
            ++refused;
        }
    }
    EXPECT_GT(refused, 200);
    EXPECT_LT(refused, 500);
}
