// SPDX-License-Identifier: Apache-2.0
// Statistics that are found once and stored: the same bits for any number of workers, those of plain sums, used as they
// are stored, and refused for other data.
#include "core/data/input_statistics.hpp"

#include "core/data/stored_statistics.hpp"
#include "tests/core/data_files.hpp"

#include <array>
#include <barrier>
#include <cmath>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <random>
#include <thread>

using namespace tessera;
using testing::ElementsAre;
using testing::HasSubstr;

namespace {

// What work(workers) returns on rank 0 of so many threads; all must return the same.
template <class Work> auto on_ranks(int ranks, const Work& work) {
    std::vector<std::string> given(static_cast<std::size_t>(ranks));
    std::vector<decltype(work(Workers{}))> found(static_cast<std::size_t>(ranks));
    std::barrier<> all(ranks);
    {
        std::vector<std::jthread> threads;
        for (int rank = 0; rank < ranks; ++rank)
            threads.emplace_back([&, rank] {
                const auto gather = [&, rank](const std::string& own) {
                    given[static_cast<std::size_t>(rank)] = own;
                    all.arrive_and_wait();
                    std::vector<std::string> copy = given;
                    all.arrive_and_wait();
                    return copy;
                };
                found[static_cast<std::size_t>(rank)] = work(Workers{rank, ranks, gather});
            });
    }
    return found[0];
}

DatasetOptions table(const std::string& path) {
    DatasetOptions options;
    options.reader = "csv";
    options.files = {path};
    options.label_column = "kind";
    options.validation_fraction = 0.25;
    return options;
}

std::string text_of(const DatasetOptions& options, int ranks) {
    return on_ranks(ranks,
                    [&](const Workers& workers) { return statistics_text(find_statistics(options, workers).stored); });
}

std::int64_t count_of(const StoredStatistics& stored, std::string_view what) {
    for (const DataFinding& finding : stored.counts)
        if (finding.what == what) return finding.count;
    return -1;
}

std::string random_rows(int count) {
    std::mt19937 generator(5);
    std::normal_distribution<double> draw(1e3, 2);
    std::string text = "x,y,kind\n";
    for (int i = 0; i < count; ++i)
        text += fmt::format("{},{},{}\n", static_cast<float>(draw(generator)), i, "ab"[i % 2]);
    return text;
}

} // namespace

TEST(InputStatistics, AreThoseOfPlainSumsOnAnyNumberOfWorkers) {
    const TestFolder folder;
    for (const int rows : {3, 100, 1001}) {
        const DatasetOptions options = table(folder.write(fmt::format("{}.csv", rows), random_rows(rows)));
        const std::string text = text_of(options, 1);
        for (const int ranks : {2, 3, 4, 7})
            EXPECT_EQ(text_of(options, ranks), text) << rows << " rows on " << ranks;
        DatasetOptions raw = options;
        raw.statistics = no_change();
        const auto dataset = open_dataset(raw);
        const std::int64_t samples = dataset->samples(Split::train);
        std::array<double, 2> row{}, means{}, squares{};
        std::int32_t label = 0;
        for (const bool second : {false, true})
            for (std::int64_t i = 0; i < samples; ++i) {
                dataset->read_stored(Split::train, i, row, View(&label, {}, DType::i32));
                for (std::size_t c = 0; c < 2; ++c)
                    (second ? squares : means)[c] +=
                        (second ? std::pow(row[c] - means[c], 2) : row[c]) / static_cast<double>(samples);
            }
        const InputStatistics found = find_statistics(options, {}).stored.statistics;
        for (std::size_t c = 0; c < 2; ++c) {
            EXPECT_NEAR(found.means[c], means[c], 1e-12 * means[c]);
            EXPECT_NEAR(found.deviations[c], std::sqrt(squares[c]), 1e-11 * std::sqrt(squares[c]));
        }
    }
}

TEST(InputStatistics, AreUsedAsTheyAreStored) {
    const TestFolder folder;
    DatasetOptions options = table(folder.write("a.csv", "x,y,kind\n1,5,a\n3,5,b\n5,6,a\n100,5,b\n"));
    options.statistics_file = folder.path("a.json");
    folder.write("a.json", statistics_text(find_statistics(options, {}).stored));
    const auto dataset = open_dataset(options);
    ASSERT_NE(dataset->statistics(), nullptr);
    EXPECT_EQ(*dataset->statistics(), read_statistics(options.statistics_file).statistics); // to the last bit
    EXPECT_THAT(dataset->statistics()->means, ElementsAre(3, 16.0 / 3));
    EXPECT_NEAR(dataset->statistics()->deviations[0], std::sqrt(8.0 / 3), 1e-15);
    std::vector<float> row(2);
    std::int32_t label = 0;
    dataset->read(Split::validation, 0, std::array{View(row.data(), {2}, DType::f32), View(&label, {}, DType::i32)});
    EXPECT_FLOAT_EQ(row[0], static_cast<float>(97 / std::sqrt(8.0 / 3)));
    DatasetOptions plain = options;
    plain.statistics_file.clear();
    EXPECT_NE(open_dataset(plain)->fingerprint(), dataset->fingerprint());
}

TEST(InputStatistics, OfColoursAreTheirChannels) {
    const TestFolder folder;
    DatasetOptions options;
    options.reader = "idx";
    options.validation_fraction = 0;
    // Two images (1, 2, 3): red 0 2 4 6, green 10, blue 0 0 0 8.
    std::string bytes{'\0', '\0', '\x08', '\x04'};
    for (const char size : {2, 1, 2, 3})
        bytes += std::string{'\0', '\0', '\0', size};
    options.files = {folder.write("images", bytes + std::string({0, 10, 0, 2, 10, 0, 4, 10, 0, 6, 10, 8}))};
    options.label_files = {folder.write("labels", std::string{'\0', '\0', '\x08', '\x01', '\0', '\0', '\0', 2, 0, 1})};
    options.statistics_file = folder.path("s.json");
    folder.write("s.json", statistics_text(find_statistics(options, {}).stored));
    const auto dataset = open_dataset(options);
    EXPECT_THAT(dataset->statistics()->means, ElementsAre(3, 10, 2));
    EXPECT_THAT(dataset->statistics()->deviations, ElementsAre(std::sqrt(5.0), 0, std::sqrt(12.0)));
    EXPECT_FLOAT_EQ(dataset->black(0, 2), static_cast<float>(-2 / std::sqrt(12.0)));
    std::vector<float> image(6);
    std::int32_t label = 0;
    dataset->read(Split::train, 1, std::array{View(image.data(), {1, 2, 3}, DType::f32), View(&label, {}, DType::i32)});
    EXPECT_FLOAT_EQ(image[3], static_cast<float>(3 / std::sqrt(5.0)));
    EXPECT_EQ(image[4], 0);
    EXPECT_FLOAT_EQ(image[5], static_cast<float>(6 / std::sqrt(12.0)));
}

TEST(InputStatistics, CountWhatCleaningFinds) {
    const TestFolder folder;
    DatasetOptions options = table(folder.write(
        "a.csv", "x,y,kind\n1,?,a\n2,2,b\n2,2,b\n2,2,a\n1,2\n7,8,a,9\n2,2,b\nfour,1,a\n,2,a\n3,4,b\n2,2,b\n3,4,a\n"));
    options.missing_mean = true;
    const FoundStatistics found = find_statistics(options, {});
    EXPECT_EQ(found.stored.training, 6);
    EXPECT_EQ(found.stored.validation, 3); // 3,4,b   2,2,b   3,4,a
    EXPECT_EQ(count_of(found.stored, "left out: row"), 3);
    EXPECT_EQ(count_of(found.stored, "rows with too few fields"), 1);
    EXPECT_EQ(count_of(found.stored, "rows with too many fields"), 1);
    EXPECT_EQ(count_of(found.stored, "missing values of 'x'"), 1);
    EXPECT_EQ(count_of(found.stored, "missing values of 'y'"), 1);
    EXPECT_EQ(count_of(found.stored, "duplicates in the training part"), 2); // 2,2,b twice more
    EXPECT_EQ(count_of(found.stored, "samples of the validation part that training has, too"), 1);
    EXPECT_THAT(found.broken, HasSubstr("a.csv:6: 2 fields, expected 3"));
    EXPECT_TRUE(found.readable);
    EXPECT_EQ(text_of(options, 3), statistics_text(found.stored));
}

TEST(InputStatistics, OfOtherDataAreRefused) {
    const TestFolder folder;
    const std::string path = folder.write("a.csv", random_rows(20));
    DatasetOptions options = table(path);
    options.statistics_file = folder.path("s.json");
    const std::string file = options.statistics_file, remedy = "; make it anew by `tessera data prepare CONFIG`";
    expect_refusal([&] { open_dataset(options); },
                   file + ": there is no such file; `tessera data prepare CONFIG` makes it");
    const std::string text = statistics_text(find_statistics(options, {}).stored);
    folder.write("s.json", text);
    EXPECT_NO_THROW(open_dataset(options));
    options.validation_fraction = 0.5;
    expect_refusal([&] { open_dataset(options); }, file +
                                                       ": these statistics were found with "
                                                       "data.validation_fraction = \"0.25\", and now it is \"0.5\"" +
                                                       remedy);
    options.validation_fraction = 0.25;
    std::string changed = random_rows(20);
    changed.back() = ' '; // as long as before
    folder.write("a.csv", changed);
    expect_refusal([&] { open_dataset(options); },
                   file + ": the content of the files has changed since these statistics were found" + remedy);
    folder.write("a.csv", random_rows(21));
    expect_refusal_like([&] { open_dataset(options); }, file + ": these statistics are of 1 file of ");
    folder.write("a.csv", random_rows(20));
    const std::string none = file + ": no statistics of `tessera data prepare`: ";
    for (const auto& [from, to, why] :
         {std::array{"\"format\": 1", "\"format\": 2", "'format' is not 1"},
          std::array{"\"mean\": [", "\"mean\": [1, ", "'mean' and 'deviation' are not as long as each other"},
          std::array{"\"deviation\": [", "\"deviation\": [-1", "'deviation' holds what cannot stand there"},
          std::array{"\"sources\"", "\"source\"", "it has no 'sources'"}}) {
        std::string damaged = text;
        damaged.replace(damaged.find(from), std::string_view(from).size(), to);
        folder.write("s.json", damaged);
        expect_refusal([&] { open_dataset(options); }, none + why);
    }
    std::string wide = text;
    for (const char* list : {"\"mean\": [", "\"deviation\": ["})
        wide.replace(wide.find(list), std::string_view(list).size(), std::string(list) + "1, ");
    folder.write("s.json", wide);
    expect_refusal([&] { open_dataset(options); }, path + ": 3 means and deviations, but samples are (2)");
    options.reader = "synthetic";
    options.statistics_file.clear();
    EXPECT_THROW(find_statistics(options, {}), ConfigError);
}
