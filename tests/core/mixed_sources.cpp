// SPDX-License-Identifier: Apache-2.0
// Several sources as one dataset, from files and a config: what is read, in which shares, what is evaluated, and each
// refusal by its words.
#include "core/data/mixed_sources.hpp"
#include "core/config_catalog.hpp"
#include "core/data/loader.hpp"
#include "core/data/options.hpp"
#include "tests/core/data_files.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <numeric>

using namespace tessera;

namespace {

std::string numbers_from(const TestFolder& folder, const std::string& name, std::uint32_t begin, std::uint32_t end) {
    std::vector<std::uint32_t> tokens(end - begin);
    std::iota(tokens.begin(), tokens.end(), begin);
    return folder.write(name, token_file(tokens));
}

Config config_of(const std::string& toml, const std::vector<std::string>& overrides = {}) {
    return Config::parse(toml, "mix.toml", overrides, known_keys());
}

std::unique_ptr<Dataset> open(const Config& config, std::int64_t length = 4) {
    return open_dataset(dataset_options(config, length, 7, ""));
}

// Three token files, of which each token tells the source.
struct ThreeSources {
    std::string toml(const std::string& more = "") const {
        return fmt::format(R"([data]
reader = "tokens"
vocab_size = 1000
validation_fraction = 0.2
{}
[[data.sources]]
name = "few"
files = ["{}"]
weight = 1
[[data.sources]]
name = "many"
files = ["{}"]
weight = 5
[[data.sources]]
name = "own"
files = ["{}"]
validation_files = ["{}"]
weight = 2
)",
                           more, few, many, own, validation);
    }
    static std::size_t source_of(std::int32_t token) { return token < 100 ? 0 : token < 500 ? 1 : 2; }

    TestFolder folder;
    std::string few = numbers_from(folder, "few.bin", 0, 50), many = numbers_from(folder, "many.bin", 100, 400),
                own = numbers_from(folder, "own.bin", 500, 600),
                validation = numbers_from(folder, "validation.bin", 900, 940);
};

// The first tokens of rows [first, first + rows) of the run, as so many ranks' loaders give them.
std::vector<std::int32_t> read(const Dataset& dataset, const SampleOrder& order, Split split, std::int64_t ranks,
                               std::int64_t first_step, std::int64_t steps, std::int64_t rows = 2) {
    const std::int64_t length = dataset.form().fields[0].shape[0], per_step = 4;
    std::map<std::int64_t, std::int32_t> found;
    Stream stream = CpuStream(1);
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
        const LoaderOptions options{.split = split,
                                    .micro_batch_size = rows,
                                    .first_micro_batch = rank * (per_step / ranks),
                                    .micro_batches = per_step / ranks,
                                    .micro_batches_per_step = per_step,
                                    .first_step = first_step,
                                    .end_step = first_step + steps};
        Loader loader(dataset, order, options);
        std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows * length)), targets(tokens);
        for (std::int64_t step = 0; step < steps; ++step)
            for (std::int64_t m = 0; m < options.micro_batches; ++m) {
                loader.next(stream, std::array{View(tokens.data(), {rows, length}, DType::i32),
                                               View(targets.data(), {rows, length}, DType::i32)});
                for (std::int64_t row = 0; row < rows; ++row) {
                    const auto at = static_cast<std::size_t>(row * length);
                    EXPECT_EQ(targets[at], tokens[at] + 1);
                    found[((first_step + step) * per_step + options.first_micro_batch + m) * rows + row] = tokens[at];
                }
            }
    }
    std::vector<std::int32_t> all;
    for (const auto& [place, token] : found)
        all.push_back(token);
    return all;
}

DatasetOptions text_of(const std::string& path, std::int64_t length = 2) {
    DatasetOptions options;
    options.files = {path};
    options.sequence_length = length;
    options.validation_fraction = 0;
    return options;
}

} // namespace

TEST(MixedSources, SharesAndOrderDependOnNoRankAndNoStart) {
    const ThreeSources files;
    const Config config = config_of(files.toml());
    const auto dataset = open(config);
    const SampleOrder order(order_options(config, *dataset, Split::train, 7, 0));
    const std::vector<std::int32_t> one = read(*dataset, order, Split::train, 1, 0, 50);
    EXPECT_EQ(one, read(*dataset, order, Split::train, 2, 0, 50));
    EXPECT_EQ(one, read(*dataset, order, Split::train, 4, 0, 50));
    for (const std::int64_t step : {1, 17, 49}) {
        const std::vector<std::int32_t> rest = read(*dataset, order, Split::train, 2, step, 50 - step);
        EXPECT_TRUE(std::equal(rest.begin(), rest.end(), one.begin() + step * 8, one.end())) << step;
    }
    std::array<std::int64_t, 3> counts{};
    for (std::size_t i = 0; i < one.size(); ++i) {
        ++counts[ThreeSources::source_of(one[i])];
        for (const auto& [source, share] : {std::pair(0, 0.125), {1, 0.625}, {2, 0.25}})
            EXPECT_LT(std::abs(static_cast<double>(counts[static_cast<std::size_t>(source)]) -
                               share * static_cast<double>(i + 1)),
                      2);
    }
    EXPECT_EQ(counts, (std::array<std::int64_t, 3>{50, 250, 100}));
    EXPECT_LT(*std::max_element(one.begin(), one.end()), 900);
}

// Each window of each source's part, once, in shares as large as the parts, so that a few of them stand for all.
TEST(MixedSources, EvaluationsTakeAllOfEachSource) {
    const ThreeSources files;
    const Config config = config_of(files.toml());
    const auto dataset = open(config);
    EXPECT_TRUE(has_validation(config));
    const SampleOrderOptions options = order_options(config, *dataset, Split::validation, 7, 0);
    const SampleOrder order(options);
    // 10 of 50 tokens, 60 of 300 and 40 of a file of its own, in windows of 4 with their targets
    EXPECT_EQ(order.per_epoch(), 2 + 14 + 9);
    std::map<std::int64_t, int> seen;
    std::int64_t of_many = 0;
    for (std::int64_t i = 0; i < 25; ++i) {
        const SampleOrder::Place place = order.place(i);
        ++seen[place.sample];
        EXPECT_EQ(place.epoch, 0);
        of_many += place.source == 1 ? 1 : 0;
        EXPECT_LT(std::abs(static_cast<double>(of_many) - static_cast<double>(i + 1) * 14 / 25), 2);
    }
    EXPECT_EQ(seen.size(), 25);
    EXPECT_EQ(of_many, 14);
    EXPECT_EQ(order.place(25).epoch, 1);

    const Config without = config_of(files.toml(), {"data.sources.few.validation_fraction=0.0"});
    const auto two = open(without);
    EXPECT_EQ(SampleOrder(order_options(without, *two, Split::validation, 7, 0)).per_epoch(), 14 + 9);
    EXPECT_EQ(two->sources(Split::train)[0].samples, 46);
}

TEST(MixedSources, TextsShareATokenizer) {
    const TestFolder folder;
    const std::string a = folder.write("a.txt", "abcabcabc"), b = folder.write("b.txt", "xyzabxyz");
    const auto dataset = open_mixed({{"a", 1, "", text_of(a)}, {"b", 1, "", text_of(b)}});
    EXPECT_EQ(dataset->form().classes, 6);
    ASSERT_NE(dataset->tokenizer(), nullptr);
    const std::vector<SourcePart> parts = dataset->sources(Split::train);
    ASSERT_EQ(parts.size(), 2u);
    EXPECT_EQ(parts[1].first, 7);
    EXPECT_EQ(parts[1].samples, 6);
    std::vector<std::int32_t> tokens(2), targets(2);
    const std::array views{View(tokens.data(), {2}, DType::i32), View(targets.data(), {2}, DType::i32)};
    dataset->read(Split::train, 7, views);
    EXPECT_EQ(dataset->tokenizer()->decode(tokens), "xy");
    dataset->read(Split::train, 6, views);
    EXPECT_EQ(dataset->tokenizer()->decode(tokens), "ab");
    EXPECT_THROW(dataset->read(Split::train, 13, views), InternalError);
}

// Each by the statistics of its own source, so that black is another number in each.
TEST(MixedSources, ImagesAreNormalisedByTheirOwnSource) {
    const TestFolder folder;
    const auto images = [&](const std::string& name, char brightest, char last_label) {
        std::string pixels("\0\0\x08\x03\0\0\0\x04\0\0\0\x01\0\0\0\x02", 16), labels("\0\0\x08\x01\0\0\0\x04", 8);
        for (int i = 0; i < 4; ++i) {
            pixels += {static_cast<char>(i), brightest};
            labels += i == 3 ? last_label : static_cast<char>(0);
        }
        DatasetOptions options = text_of(folder.write(name, pixels));
        options.reader = "idx";
        options.label_files = {folder.write(name + "-labels", labels)};
        return options;
    };
    const DatasetOptions dark = images("dark", 10, 1), light = images("light", 100, 1);
    const auto mixed = open_mixed({{"dark", 1, "", dark}, {"light", 1, "", light}});
    EXPECT_EQ(mixed->form().classes, 2);
    for (const auto& [options, first] : {std::pair(dark, 0), std::pair(light, 4)}) {
        const auto alone = open_dataset(options);
        for (std::int64_t i = 0; i < 4; ++i) {
            EXPECT_EQ(mixed->black(first + i), alone->black(i));
            std::array<float, 2> one{}, same{};
            std::int32_t label = -1, same_label = -2;
            const View of_label(&label, {}, DType::i32), of_same(&same_label, {}, DType::i32);
            alone->read(Split::train, i, std::array{View(one.data(), {1, 2, 1}, DType::f32), of_label});
            mixed->read(Split::train, first + i, std::array{View(same.data(), {1, 2, 1}, DType::f32), of_same});
            EXPECT_EQ(one, same);
            EXPECT_EQ(label, same_label);
        }
    }
    EXPECT_NE(mixed->black(0), mixed->black(4));
    expect_refusal(
        [&] {
            open_mixed({{"dark", 1, "x.toml:3:1", dark}, {"light", 1, "x.toml:6:1", images("more", 100, 4)}});
        },
        "x.toml:6:1: the source 'light' does not fit 'dark' (x.toml:3:1): it has 5 classes, there 2: data.classes says "
        "how many there are");
}

TEST(MixedSources, TheFingerprintIsOfAllThatMatters) {
    const TestFolder folder;
    const std::string a = folder.write("a.txt", "abcabcabc"), b = folder.write("b.txt", "cbacbacba");
    const auto fingerprint = [&](const std::string& name, double weight, const std::string& second) {
        return open_mixed({{"a", 1, "", text_of(a)}, {name, weight, "", text_of(second)}})->fingerprint();
    };
    const std::string found = fingerprint("b", 2, b);
    EXPECT_EQ(found, fingerprint("b", 2, b));
    EXPECT_NE(found, fingerprint("b", 3, b));
    EXPECT_NE(found, fingerprint("c", 2, b));
    EXPECT_NE(found, fingerprint("b", 2, a));
}

TEST(MixedSources, MustFitEachOther) {
    const TestFolder folder;
    const std::string a = folder.write("a.txt", "abcabcabc");
    const std::string gpt2 = numbers_from(folder, "a.bin", 0, 40);
    const auto refusal = [&](const DatasetOptions& first, const DatasetOptions& second, const std::string& why) {
        expect_refusal(
            [&] {
                open_mixed({{"one", 1, "x.toml:3:1", first}, {"two", 1, "x.toml:6:1", second}});
            },
            "x.toml:6:1: the source 'two' does not fit 'one' (x.toml:3:1): " + why);
    };
    DatasetOptions tokens = text_of(gpt2);
    tokens.reader = "tokens";
    refusal(text_of(a), tokens, "it has 50257 tokens in its vocabulary, there 3");
    tokens.token_vocabulary = 3;
    tokens.sequence_length = 5;
    refusal(text_of(a), tokens,
            "its samples are tokens (5) i32, targets (5) i32, there tokens (2) i32, targets (2) i32");
    DatasetOptions pairs = text_of(folder.write("p.txt", "ab\tba\n"));
    pairs.reader = "pairs";
    refusal(pairs, text_of(a),
            "its samples are tokens (2) i32, targets (2) i32, there source (2) i32, targets (2) i32");
    DatasetOptions other = text_of(folder.write("o.txt", "abdabdabd"));
    other.tokenizer_json = train_tokenizer({}, "abd")->save();
    refusal(text_of(a), other, "it is tokenised otherwise: data.tokenizer_file gives all the same tokenizer");

    const auto table = [&](const std::string& name, const std::string& content) {
        DatasetOptions options = text_of(folder.write(name, content));
        options.reader = "csv";
        options.label_column = "kind";
        return options;
    };
    const DatasetOptions first = table("1.csv", "x,y,kind\n1,2,a\n3,4,b\n");
    refusal(first, table("2.csv", "x,y,kind\n1,2,a\n3,4,c\n"), "its classes are others: number 1 is 'c', there 'b'");
    refusal(first, table("3.csv", "x,z,kind\n1,2,a\n3,4,b\n"), "its features are others: number 1 is 'z', there 'y'");
    refusal(first, table("4.csv", "x,y,kind\n1,2,a\n3,4,a\n"),
            "it has 1 classes, there 2: data.classes says how many there are");
    DatasetOptions fewer = table("5.csv", "x,y,kind\n1,2,a\n3,4,a\n");
    fewer.classes = 2;
    EXPECT_EQ(open_mixed({{"one", 1, "", first}, {"two", 1, "", fewer}})->form().class_names.size(), 2u);
    expect_refusal(
        [&] {
            open_mixed({{"one", 0, "", first}});
        },
        "the weight of source 1 is 0, expected a number above 0");
}

TEST(MixedSources, TheConfigIsCheckedBeforeAnythingIsRead) {
    const auto refusal = [](const std::string& tables, const std::string& message, const std::string& section = "") {
        const Config config = config_of(fmt::format("[data]\n{}\n{}", section, tables));
        expect_refusal([&] { dataset_options(config, 4, 7, ""); }, "mix.toml:" + message);
    };
    const std::string one = "[[data.sources]]\nname = \"a\"\nfiles = [\"a\"]\n";
    refusal("[[data.sources]]\nfiles = [\"a\"]\n", "3:1: a source wants a name");
    refusal(one + one, "7:1: name = \"a\": another source (mix.toml:3:1) has this name");
    refusal("[[data.sources]]\nname = \"a\"\n", "3:1: files = []: names no file to train on");
    refusal(one + "weight = -1.5\n", "6:1: weight = -1.5: must be above 0");
    refusal(one + "weight = 0\n", "6:1: weight = 0.0: must be above 0");
    refusal(one + "weight = inf\n", "6:1: weight = inf: must be above 0");
    refusal(one + "label_files = [\"b\"]\n", "6:1: label_files = [\"b\"]: the reader of this source has no use for it");
    refusal(one + "reader = \"txt\"\n", "6:1: reader = \"txt\": no reader named 'txt'; did you mean 'text'?");
    refusal(one, "2:1: data.files = [\"b\"]: each of the tables [[data.sources]] has its own", "files = [\"b\"]");
    refusal(one,
            "2:1: data.order = \"stream\": goes on with one text from step to step, and there are several "
            "[[data.sources]]",
            "order = \"stream\"");
    expect_refusal([&] { config_of(one + "wieght = 2\n"); },
                   "mix.toml:4:1: no key of [[data.sources]] named 'wieght'; did you mean 'weight'?");
    const Config readers = config_of("[data]\nreader = \"csv\"\n" + one + "reader = \"text\"\n");
    EXPECT_TRUE(reads_text(readers));
    EXPECT_EQ(reader_of(readers), "text");
}
