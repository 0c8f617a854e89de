// SPDX-License-Identifier: Apache-2.0
// Tables with categories and missing values, as CSV, TSV and ARFF: what becomes of each column, worked out by hand.
#include "core/data/dataset.hpp"
#include "tests/core/data_files.hpp"

#include <array>
#include <cmath>
#include <gmock/gmock.h>

using namespace tessera;
using testing::ElementsAre;
using testing::FloatNear;

namespace {

DatasetOptions table(std::string reader, const std::string& path, std::string label) {
    DatasetOptions options;
    options.reader = std::move(reader);
    options.files = {path};
    options.label_column = std::move(label);
    options.validation_fraction = 0;
    if (options.reader == "tsv") options.delimiter = "\t";
    return options;
}

std::vector<float> features(const Dataset& dataset, std::int64_t sample, std::int32_t& label) {
    std::vector<float> found(static_cast<std::size_t>(dataset.form().fields[0].shape.count()));
    dataset.read(
        Split::train, sample,
        std::array{View(found.data(), dataset.form().fields[0].shape, DType::f32), View(&label, {}, DType::i32)});
    return found;
}

} // namespace

// Of ARFF: a quoted name, both kinds of quotes, a comment, nominal columns in the order in which they are listed.
TEST(Tables, ArffSaysItsColumnsItself) {
    const TestFolder folder;
    const std::string path =
        folder.write("w.arff", "% weather\n@relation w\n@ATTRIBUTE 'the outlook' { sunny , 'very rainy' }\n"
                               "@attribute degrees REAL\n@attribute play {yes,no}\n\n@data\n"
                               "sunny,1,no\n\t'very rainy' , 3,yes\n% nothing\n?,?,yes\n");
    DatasetOptions options = table("arff", path, "play");
    expect_refusal([&] { open_dataset(options); },
                   path + ":11: column 'the outlook' is missing; data.missing = \"mean\" takes such rows");
    options.missing_mean = true;
    const auto dataset = open_dataset(options);
    EXPECT_EQ(dataset->form().classes, 2);
    EXPECT_EQ(dataset->form().fields[0].shape, Shape{3}); // sunny, very rainy, degrees
    std::int32_t label = -1;
    const float high = std::sqrt(2.0f), low = -std::sqrt(0.5f), step = std::sqrt(1.5f); // normalised
    EXPECT_THAT(features(*dataset, 0, label),
                ElementsAre(FloatNear(high, 1e-5f), FloatNear(low, 1e-5f), FloatNear(-step, 1e-5f)));
    EXPECT_EQ(label, 1);
    EXPECT_THAT(features(*dataset, 1, label),
                ElementsAre(FloatNear(low, 1e-5f), FloatNear(high, 1e-5f), FloatNear(step, 1e-5f)));
    EXPECT_EQ(label, 0);
    EXPECT_THAT(features(*dataset, 2, label),
                ElementsAre(FloatNear(low, 1e-5f), FloatNear(low, 1e-5f), FloatNear(0, 1e-5f)));
}

TEST(Tables, CategoriesOfCsvAreThoseOfTheTrainingData) {
    const TestFolder folder;
    for (const std::string reader : {"csv", "tsv"}) {
        const std::string gap = reader == "csv" ? "," : "\t";
        std::string text = "colour" + gap + "size" + gap + "kind\n";
        for (const std::string row : {"red,1,a", "blue,2,b", "red,NA,a", "green,3,b"}) {
            std::string line = row;
            for (char& c : line)
                if (c == ',') c = gap[0];
            text += line + "\n";
        }
        DatasetOptions options = table(reader, folder.write("t", text), "kind");
        options.category_columns = {"colour"};
        expect_refusal([&] { open_dataset(options); },
                       folder.path("t") + ":4: column 'size' is 'NA', expected a number");
        options.skip_errors = true;
        EXPECT_EQ(open_dataset(options)->samples(Split::train), 3);
        options.skip_errors = false;
        options.missing_mean = true;
        const auto dataset = open_dataset(options);
        std::int32_t label = -1;
        const std::vector<float> row = features(*dataset, 2, label); // blue, green, red, size
        ASSERT_EQ(row.size(), 4u);
        EXPECT_LT(row[0], 0);
        EXPECT_LT(row[1], 0);
        EXPECT_GT(row[2], 0);
        EXPECT_NEAR(row[3], 0, 1e-6);
    }
}

// Rows for validation say nothing of means and categories.
TEST(Tables, TheTrainingPartFillsGaps) {
    const TestFolder folder;
    DatasetOptions options = table("csv", folder.write("t.csv", "c,x,y\nu,1,a\nv,3,b\nu,,a\nw,500,b\n"), "y");
    options.category_columns = {"c"};
    options.missing_mean = true;
    options.validation_fraction = 0.25;
    const auto dataset = open_dataset(options);
    ASSERT_EQ(dataset->samples(Split::train), 3);
    EXPECT_EQ(dataset->form().fields[0].shape, Shape{3}); // u, v, x: w is not known
    std::int32_t label = -1;
    EXPECT_NEAR(features(*dataset, 2, label)[2], 0, 1e-6) << "the mean of 1 and 3";
    options.missing_mean = false;
    options.category_columns.clear();
    options.files = {folder.write("gap.csv", "x,y\n1,a\n2,\n3,b\n")};
    expect_refusal([&] { open_dataset(options); }, options.files[0] + ":3: what is to be found is missing");
}

TEST(Tables, AFileThatIsLeftOutLeavesNothing) {
    const TestFolder folder;
    DatasetOptions options = table("csv", folder.write("a.csv", "p,q\n1,2\n"), "y");
    options.files.push_back(folder.write("b.csv", "x,y\n1,a\n2,b\n"));
    options.skip_errors = true;
    const auto dataset = open_dataset(options);
    EXPECT_EQ(dataset->samples(Split::train), 2);
    EXPECT_EQ(dataset->skipped()[0].count, 1);
}

TEST(Tables, WhatArffHasNot) {
    const TestFolder folder;
    const auto refused = [&](const std::string& text, const std::string& why) {
        const std::string path = folder.write("x.arff", text);
        expect_refusal([&] { open_dataset(table("arff", path, "y")); }, path + why);
    };
    refused("@relation r\n", ":1: the file ends before @data");
    refused("1,2,3\n", ":1: expected @attribute or @data, found '1,2,3'");
    refused("@attribute d date\n", ":1: attribute 'd' is 'date', expected numeric, real, integer, string or {…}");
    refused("@data\n", ":1: no @attribute stands before @data");
    refused("@attribute x real\n@attribute y {a,b}\n@data\n1,c\n",
            ":4: the label 'c' is none of the 2 that are listed");
    refused("@attribute x {u,v}\n@attribute y {a,b}\n@data\nw,a\n",
            ":4: column 'x' is 'w', which is none of its 2 categories");
}
