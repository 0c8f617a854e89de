// SPDX-License-Identifier: Apache-2.0
// Corpora: what cleaning leaves out, Megatron's files byte by byte, pairs of texts, and records that are skipped.
#include "core/data/cleaning.hpp"
#include "core/data/dataset.hpp"
#include "core/data/indexed_tokens.hpp"
#include "core/data/prepare.hpp"
#include "tests/core/data_files.hpp"

#include <array>
#include <barrier>
#include <gmock/gmock.h>
#include <thread>

using namespace tessera;
using testing::ElementsAre;

namespace {

std::vector<Verdict> verdicts(const std::vector<std::string>& records, const CleaningOptions& options) {
    std::vector<RecordFacts> facts;
    for (const std::string& record : records)
        facts.push_back(facts_of(record, options.near_duplicates > 0));
    return judge(facts, options);
}

std::string sentence(int words, int changed = -1) {
    std::string text;
    for (int i = 0; i < words; ++i)
        text += (i == changed ? "other" : "word" + std::to_string(i * i % 97 + i)) + " ";
    return text;
}

using Ids = std::vector<std::int32_t>;

std::array<Ids, 2> sample(const Dataset& dataset, Split split, std::int64_t number) {
    std::array<Ids, 2> found;
    std::vector<View> views;
    for (std::size_t i = 0; i < 2; ++i) {
        const Field& field = dataset.form().fields[i];
        found[i].assign(static_cast<std::size_t>(field.shape.count()), -7);
        views.push_back({found[i].data(), field.shape, DType::i32});
    }
    dataset.read(split, number, views);
    return found;
}

DatasetOptions options_of(std::string reader, std::vector<std::string> files, std::int64_t length) {
    DatasetOptions options;
    options.reader = std::move(reader);
    options.files = std::move(files);
    options.sequence_length = length;
    options.validation_fraction = 0;
    return options;
}

} // namespace

TEST(Cleaning, LeavesOutWhatIsBrokenShortOrThereAlready) {
    using enum Verdict;
    const std::vector<std::string> records = {"one two", "x", "one two", "ab\xff", "one  two", "", "世界"};
    EXPECT_THAT(verdicts(records, {.least_characters = 2}),
                ElementsAre(kept, too_short, duplicate, broken, kept, too_short, kept));
    EXPECT_THAT(verdicts(records, {.least_characters = 0, .keep_duplicates = true}),
                ElementsAre(kept, kept, kept, broken, kept, kept, kept));
}

// Of 200 words one differs: 196 runs, of which 5 hold it, so alike by 191 / 201 = 0.95.
TEST(Cleaning, FindsNearDuplicates) {
    using enum Verdict;
    const std::vector<std::string> records = {sentence(200), sentence(200, 50),
                                              "entirely other words stand in this one record here"};
    EXPECT_THAT(verdicts(records, {.near_duplicates = 0.8}), ElementsAre(kept, near_duplicate, kept));
    EXPECT_THAT(verdicts(records, {.near_duplicates = 1}), ElementsAre(kept, kept, kept));
    EXPECT_THAT(verdicts(records, {}), ElementsAre(kept, kept, kept));
}

TEST(Preparing, GivesTheSameBytesOnAnyNumberOfRanks) {
    const TestFolder folder;
    std::string text;
    for (int i = 0; i < 50; ++i)
        text += i % 7 == 0 ? "again and again\n" : sentence(i % 11 + 1) + std::to_string(i) + "\n";
    PrepareOptions options{.files = {folder.write("a.txt", text)},
                           .records = "line",
                           .tokenizer = {.kind = "bpe", .vocabulary_size = 265}};
    std::array<std::string, 3> bytes;
    const std::array<int, 3> counts = {1, 3, 8};
    for (std::size_t i = 0; i < counts.size(); ++i) {
        options.folder = folder.path("ranks" + std::to_string(counts[i]));
        std::vector<std::string> given(static_cast<std::size_t>(counts[i]));
        std::barrier meeting(counts[i]);
        std::vector<std::jthread> ranks;
        for (int rank = 0; rank < counts[i]; ++rank)
            ranks.emplace_back([&, rank] {
                prepare_corpus(options, {rank, counts[i], [&, rank](const std::string& own) {
                                             given[static_cast<std::size_t>(rank)] = own;
                                             meeting.arrive_and_wait();
                                             const std::vector<std::string> all = given;
                                             meeting.arrive_and_wait();
                                             return all;
                                         }});
            });
        ranks.clear();
        for (const char* name : {"/tokens.bin", "/tokens.idx", "/tokenizer.json", "/manifest.json"})
            bytes[i] += std::string(MappedFile(options.folder + name).text());
        EXPECT_GT(check_prepared(options.folder), 0);
    }
    EXPECT_EQ(bytes[0], bytes[1]);
    EXPECT_EQ(bytes[0], bytes[2]);
    EXPECT_NE(bytes[0].find("\"duplicates\": 7"), std::string::npos);
}

TEST(Preparing, ChangedFilesAreFound) {
    const TestFolder folder;
    const PrepareOptions options{.files = {folder.write("a.txt", "some text")}, .folder = folder.path("made")};
    const Workers alone{0, 1, [](const std::string& own) { return std::vector{own}; }};
    EXPECT_EQ(prepare_corpus(options, alone).tokens, 9);
    expect_refusal([&] { prepare_corpus(options, alone); },
                   folder.path("made") + " is there already, and nothing is overwritten");
    folder.write("made/tokens.bin", "another string of bytes");
    EXPECT_THROW(check_prepared(folder.path("made")), DataError);
}

TEST(MegatronReader, ReadsItsFilesAndRefusesOthers) {
    const TestFolder folder;
    std::string bin;
    for (std::uint16_t token = 0; token < 12; ++token)
        append_little_endian(bin, token);
    folder.write("x.bin", bin);
    const std::string path = folder.write("x.idx", index_bytes({5, 4, 3}, 2));
    const IndexedTokens tokens(path);
    EXPECT_EQ(tokens.sequences(), 3);
    EXPECT_EQ(tokens.first_token(2), 9);
    DatasetOptions options = options_of("megatron", {path}, 4);
    expect_refusal([&] { open_dataset(options); },
                   "the files of the reader 'megatron' do not say how many tokens there are: say "
                   "data.vocab_size, or data.tokenizer_file");
    options.token_vocabulary = 12;
    EXPECT_EQ(sample(*open_dataset(options), Split::train, 3)[0], (Ids{3, 4, 5, 6}));
    EXPECT_EQ(open_dataset(options)->samples(Split::train), 8);
    folder.write("x.idx", index_bytes({5, 4, 4}, 2));
    expect_refusal([&] { open_dataset(options); },
                   path + ": sequence 2 has 4 tokens from byte 18 on, but " + folder.path("x.bin") + " has 24 bytes");
    folder.write("x.idx", "MMIDIDY");
    expect_refusal([&] { open_dataset(options); },
                   path + ": not an index of Megatron's (it does not begin with MMIDIDX)");
    folder.write("x.idx", index_bytes({5, 4, 3}, 2).substr(0, 60));
    expect_refusal([&] { open_dataset(options); },
                   path + ": the header says 3 sequences and 4 documents, but 26 bytes follow it (truncated)");
}

TEST(PairReader, FillsUpSourcesAndTargets) {
    const TestFolder folder;
    DatasetOptions options = options_of("pairs", {folder.write("a.txt", "ab\tba\nabba\tb\n")}, 3);
    options.target_length = 4;
    const auto dataset = open_dataset(options); // a, b; then 2 is the padding, 3 the end
    EXPECT_EQ(dataset->form().classes, 4);
    EXPECT_EQ(dataset->spacing(), 1);
    EXPECT_EQ(dataset->samples(Split::train), 2);
    EXPECT_EQ(sample(*dataset, Split::train, 0), (std::array{Ids{0, 1, 3}, Ids{1, 0, 3, -1}}));
    EXPECT_EQ(sample(*dataset, Split::train, 1), (std::array{Ids{0, 1, 3}, Ids{1, 3, -1, -1}})); // cut, and ends
}

TEST(PairReader, TwoFilesAndWhatIsWrongWithThem) {
    const TestFolder folder;
    const std::string source = folder.write("a.de", "eins\nzwei\n\n"),
                      target = folder.write("a.en", "one\ntwo\nthree\n");
    DatasetOptions options = options_of("pairs", {source}, 6);
    options.target_files = {target};
    expect_refusal([&] { open_dataset(options); }, source + ":3: the source is empty");
    options.skip_errors = true;
    const auto dataset = open_dataset(options);
    EXPECT_EQ(dataset->samples(Split::train), 2);
    ASSERT_EQ(dataset->skipped().size(), 1u);
    EXPECT_EQ(dataset->skipped()[0].count, 1);
    options.skip_errors = false;
    folder.write("a.en", "one\n");
    expect_refusal([&] { open_dataset(options); }, source + " has 3 lines, " + target + " has 1");
    options.target_files.clear();
    expect_refusal([&] { open_dataset(options); }, source + ":1: the separator '\t' is not there");
}

TEST(SkippedRecords, AreCountedAndLeaveTheOthersAsTheyWere) {
    const TestFolder folder;
    DatasetOptions table = options_of(
        "csv", {folder.write("a.csv", "x,kind\n1,a\n2\n3,b\nfour,b\n5,\"open\n6,a\n"), folder.path("none.csv")}, 1);
    table.label_column = "kind";
    EXPECT_THROW(open_dataset(table), DataError);
    table.skip_errors = true;
    const auto rows = open_dataset(table);
    EXPECT_EQ(rows->samples(Split::train), 3);
    ASSERT_EQ(rows->skipped().size(), 2u);
    EXPECT_EQ(rows->skipped()[0].kind, "row");
    EXPECT_EQ(rows->skipped()[0].count, 3);
    EXPECT_EQ(rows->skipped()[0].first, folder.path("a.csv") + ":3: 1 fields, expected 2");
    EXPECT_EQ(rows->skipped()[1].first, folder.path("none.csv") + ": there is no such file");

    DatasetOptions tokens = options_of(
        "tokens", {folder.write("a.bin", token_file({1, 2, 3, 99, 4, 5, 6, 7})), folder.write("b.bin", "no")}, 2);
    tokens.token_vocabulary = 10;
    tokens.skip_errors = true;
    const auto windows = open_dataset(tokens);
    EXPECT_EQ(windows->samples(Split::train), 1 + 2); // in 1 2 3, and in 4 5 6 7
    EXPECT_EQ(sample(*windows, Split::train, 1), (std::array{Ids{4, 5}, Ids{5, 6}}));
    ASSERT_EQ(windows->skipped().size(), 2u);
    EXPECT_EQ(windows->skipped()[1].first,
              folder.path("a.bin") + ": token number 3 is 99, beyond the vocabulary of 10");
}
