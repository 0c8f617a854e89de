// SPDX-License-Identifier: Apache-2.0
// Separate samples from tables and images written byte by byte: what is read, normalised, numbered and split.
#include "core/data/dataset.hpp"
#include "kernels/error.hpp"
#include "tests/core/data_files.hpp"

#include <array>
#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace tessera;

namespace {

struct Row {
    std::vector<float> inputs;
    std::int32_t label = -1;
};

Row row(const Dataset& dataset, Split split, std::int64_t sample) {
    const SampleForm& form = dataset.form();
    Row found{std::vector<float>(static_cast<std::size_t>(form.fields[0].shape.count()))};
    dataset.read(
        split, sample,
        std::array{View(found.inputs.data(), form.fields[0].shape, DType::f32), View(&found.label, {}, DType::i32)});
    return found;
}

DatasetOptions table(const std::string& path) {
    DatasetOptions options;
    options.reader = "csv";
    options.files = {path};
    options.label_column = "kind";
    options.validation_fraction = 0;
    return options;
}

std::string refusal_of(const DatasetOptions& options) {
    try {
        open_dataset(options);
    } catch (const ConfigError& refusal) {
        return refusal.what();
    }
    return "accepted";
}

std::string idx(std::initializer_list<std::uint32_t> sizes, const std::string& content) {
    std::string bytes{'\0', '\0', '\x08', static_cast<char>(sizes.size())};
    for (const std::uint32_t size : sizes)
        for (int shift = 24; shift >= 0; shift -= 8)
            bytes += static_cast<char>(size >> shift & 0xff);
    return bytes + content;
}

} // namespace

TEST(DataSamples, OfATableAreNumbersAndNumberedLabels) {
    TestFolder folder;
    DatasetOptions options = table(folder.write("a.csv", "x,kind,y\n1,pear,7\n3,apple,7\n5,pear,7\n3,fig,7\n"));
    options.validation_files = {folder.write("b.csv", "x,kind,y\n9,fig,8\n")};
    const auto dataset = open_dataset(options);
    EXPECT_EQ(dataset->form().classes, 3); // apple, fig, pear
    EXPECT_EQ(dataset->form().fields[0].shape, Shape{2});
    EXPECT_EQ(dataset->form().units, 1);
    EXPECT_EQ(dataset->samples(Split::train), 4);
    EXPECT_EQ(dataset->samples(Split::validation), 1);
    const float deviation = std::sqrt(2.0f); // of 1 3 5 3
    const Row first = row(*dataset, Split::train, 0), last = row(*dataset, Split::validation, 0);
    EXPECT_FLOAT_EQ(first.inputs[0], -2 / deviation);
    EXPECT_EQ(first.inputs[1], 0.0f); // it never varies
    EXPECT_EQ(first.label, 2);
    EXPECT_FLOAT_EQ(last.inputs[0], 6 / deviation); // by the training part
    EXPECT_EQ(last.label, 1);
    EXPECT_NE(open_dataset(table(options.validation_files[0]))->fingerprint(), dataset->fingerprint());
    EXPECT_EQ(open_dataset(options)->fingerprint(), dataset->fingerprint());
}

TEST(DataSamples, AreSplitByFraction) {
    TestFolder folder;
    DatasetOptions options = table(folder.write("a.csv", "x;kind\n1;a\n2;b\n3;a\n4;b\n5;b\n"));
    options.delimiter = ";";
    options.validation_fraction = 0.4;
    const auto dataset = open_dataset(options);
    EXPECT_EQ(dataset->samples(Split::train), 3);
    EXPECT_EQ(dataset->samples(Split::validation), 2);
    EXPECT_FLOAT_EQ(row(*dataset, Split::validation, 1).inputs[0], 3 / std::sqrt(2.0f / 3.0f));
    EXPECT_EQ(row(*dataset, Split::validation, 1).label, 1);
}

TEST(DataSamples, WithoutAHeaderHaveNumberedColumns) {
    TestFolder folder;
    DatasetOptions options = table(folder.write("a.csv", "4,1\n6,0\n"));
    options.header = false;
    options.label_column = "2";
    const auto dataset = open_dataset(options);
    EXPECT_EQ(dataset->samples(Split::train), 2);
    EXPECT_FLOAT_EQ(row(*dataset, Split::train, 1).inputs[0], 1);
    EXPECT_EQ(row(*dataset, Split::train, 0).label, 1);
}

TEST(DataSamples, WithALabelThatTrainingHasNotAreRefused) {
    TestFolder folder;
    DatasetOptions options = table(folder.write("a.csv", "x,kind\n1,a\n2,b\n"));
    options.validation_files = {folder.write("b.csv", "x,kind\n1,b\n2,c\n")};
    EXPECT_THAT(refusal_of(options),
                testing::HasSubstr("b.csv:3: the label 'c' is none of the 2 classes of the training data"));
    options.validation_files.clear();
    options.classes = 1;
    EXPECT_THAT(refusal_of(options), testing::HasSubstr("column 'kind' has 2 labels, data.classes says 1"));
}

TEST(DataSamples, OfImagesAreNormalisedBytes) {
    TestFolder folder;
    DatasetOptions options;
    options.reader = "idx";
    options.validation_fraction = 0;
    options.files = {
        folder.write("images", idx({2, 1, 2, 3}, std::string({0, 10, 20, 30, 40, 50, 0, 0, 0, 0, 0, 100})))};
    options.label_files = {folder.write("labels", idx({2}, std::string({3, 1})))};
    const auto dataset = open_dataset(options);
    EXPECT_EQ(dataset->form().classes, 4); // 0 to the largest
    EXPECT_EQ(dataset->form().fields[0].shape, (Shape{1, 2, 3}));
    const double mean = 250.0 / 12, deviation = std::sqrt((100 + 400 + 900 + 1600 + 2500 + 10000) / 12.0 - mean * mean);
    EXPECT_NEAR(row(*dataset, Split::train, 1).inputs[5], (100 - mean) / deviation, 1e-6);
    EXPECT_NEAR(row(*dataset, Split::train, 0).inputs[1], (10 - mean) / deviation, 1e-6);
    EXPECT_EQ(row(*dataset, Split::train, 0).label, 3);
    options.validation_files = options.files;
    options.validation_label_files = {folder.write("more", idx({2}, std::string({0, 4})))};
    EXPECT_THAT(refusal_of(options), testing::HasSubstr("label number 1 is 4, beyond the 4 classes"));
    options.validation_label_files.clear();
    EXPECT_THAT(refusal_of(options), testing::HasSubstr("1 files of images, but 0 of labels"));
}

TEST(DataSamples, ImagesAndPairsOfFilesThatAreNotRightAreLeftOut) {
    TestFolder folder;
    DatasetOptions options;
    options.reader = "idx";
    options.classes = 3;
    options.validation_fraction = 0;
    options.skip_errors = true;
    const auto images = [&](const char* name, char pixel) {
        return folder.write(name, idx({2, 1, 1}, std::string({pixel, 100})));
    };
    options.files = {images("a", 0), folder.write("b", "no IDX"), images("c", 10), images("d", 20),
                     folder.write("e", idx({1, 2, 1}, std::string(2, 0)))};
    options.label_files = {folder.write("a1", idx({2}, std::string({3, 1}))), folder.write("b1", idx({2}, "\1\1")),
                           folder.write("c1", idx({3}, "\1\1\1")), folder.write("d1", idx({2}, std::string({2, 9}))),
                           folder.write("e1", idx({1}, "\1"))};
    options.validation_files = {options.files[2], options.files[0]};
    options.validation_label_files = {options.label_files[2], options.label_files[0]};
    const auto dataset = open_dataset(options);
    ASSERT_EQ(dataset->samples(Split::train), 2); // 100 and 20, whose mean is 60 and whose deviation is 40
    EXPECT_EQ(dataset->samples(Split::validation), 1);
    EXPECT_NEAR(row(*dataset, Split::train, 0).inputs[0], 1, 1e-6);
    EXPECT_EQ(row(*dataset, Split::train, 0).label, 1);
    EXPECT_NEAR(row(*dataset, Split::train, 1).inputs[0], -1, 1e-6);
    EXPECT_EQ(row(*dataset, Split::train, 1).label, 2);
    const std::vector<SkippedRecords> skipped = dataset->skipped();
    ASSERT_EQ(skipped.size(), 2u);
    EXPECT_EQ(skipped[0].kind, "image");
    EXPECT_EQ(skipped[0].count, 3);
    EXPECT_EQ(skipped[0].first, folder.path("a1") + ": label number 0 is 3, beyond the 3 classes");
    EXPECT_EQ(skipped[1].kind, "pair of files");
    EXPECT_EQ(skipped[1].count, 4);
    EXPECT_THAT(skipped[1].first, testing::HasSubstr("not an IDX file"));
    const auto only = [&](std::initializer_list<std::size_t> pairs, std::vector<std::string>& files) {
        const std::vector<std::string> all = files;
        files.clear();
        for (const std::size_t pair : pairs)
            files.push_back(all[pair]);
    };
    DatasetOptions wide = options; // the first pair is of another shape than what is said
    wide.image_shape = {1, 1, 1};
    only({4, 0}, wide.files), only({4, 0}, wide.label_files);
    wide.validation_files.clear(), wide.validation_label_files.clear();
    EXPECT_EQ(open_dataset(wide)->samples(Split::train), 1);
    DatasetOptions unseen = options;
    only({0}, unseen.validation_files), only({0}, unseen.validation_label_files);
    EXPECT_THAT(refusal_of(unseen), testing::HasSubstr(": no image is left to validate on"));
    only({1}, options.files), only({1}, options.label_files);
    EXPECT_THAT(refusal_of(options), testing::HasSubstr(options.files[0] + ": no image is left to train on"));
}
