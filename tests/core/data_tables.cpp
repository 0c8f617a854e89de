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

// RFC 4180: a quoted field may hold line breaks, and two quotes for one; places are lines of the file.
TEST(Tables, QuotedFieldsGoOnOverLines) {
    const TestFolder folder;
    const std::string good = "x,kind\r\n1,\"a\r\nand \"\"b\"\"\"\r\n\r\n2,\"c\"\r\n\"3\",\"a\r\nand \"\"b\"\"\"\r\n";
    const auto dataset = open_dataset(table("csv", folder.write("q.csv", good), "kind"));
    ASSERT_EQ(dataset->samples(Split::train), 3);
    EXPECT_THAT(dataset->form().class_names, ElementsAre("a\r\nand \"b\"", "c"));
    std::int32_t label = -1;
    EXPECT_THAT(features(*dataset, 2, label), ElementsAre(FloatNear(std::sqrt(1.5f), 1e-5f)));
    EXPECT_EQ(label, 0);

    const std::string ragged = folder.write("r.csv", "x,kind\n1,\"a\nb\"\n2,\"c\nd\",3\n5,\"e\n");
    DatasetOptions options = table("csv", ragged, "kind");
    expect_refusal([&] { open_dataset(options); }, ragged + ":4: 3 fields, expected 2");
    options.skip_errors = true;
    const auto left = open_dataset(options);
    EXPECT_EQ(left->samples(Split::train), 1);
    EXPECT_EQ(left->skipped()[0].count, 2);
    const std::string open = folder.write("o.csv", "x,kind\n1,a\n2,\"b\n3,c\n");
    options.files = {open};
    const auto rest = open_dataset(options);
    EXPECT_EQ(rest->samples(Split::train), 2); // the line behind is a record of its own
    EXPECT_EQ(rest->skipped()[0].first, open + ":3: a quote is opened and never closed");
}

// A label and numbers are fields of their own, and so is each input, whatever the order of its columns.
TEST(Tables, SeveralInputsAndBothKindsOfTargets) {
    const TestFolder folder;
    const std::string path = folder.write("m.csv", "id,p1,kind,colour,p2,price,weight\n"
                                                   "x,1,b,red,10,5,0.5\ny,2,a,blue,20,7,0.25\nz,3,b,red,60,3,0.75\n");
    DatasetOptions options = table("csv", path, "kind");
    options.targets = {"price", "weight"};
    options.category_columns = {"colour"};
    options.inputs = {{"looks", {"colour"}, "m.toml:3:1"}, {"pixels", {"p?"}, "m.toml:6:1"}};
    const auto dataset = open_dataset(options);
    const SampleForm& form = dataset->form();
    ASSERT_EQ(form.fields.size(), 4u);
    EXPECT_EQ(form.fields[0], (Field{"looks", {2}, DType::f32}));
    EXPECT_EQ(form.fields[1], (Field{"pixels", {2}, DType::f32}));
    EXPECT_EQ(form.fields[2], (Field{"label", {}, DType::i32}));
    EXPECT_EQ(form.fields[3], (Field{"targets", {2}, DType::f32}));
    EXPECT_EQ(form.classes_of(2), 2);
    EXPECT_EQ(form.classes_of(3), 0);
    EXPECT_THAT(form.means_of(3), ElementsAre(testing::DoubleNear(5, 1e-12), testing::DoubleNear(0.5, 1e-12)));
    EXPECT_EQ(dataset->stored_shape(), Shape{4});
    std::array<float, 2> looks{}, pixels{}, numbers{};
    std::int32_t label = -1;
    dataset->read(Split::train, 1,
                  std::array{View(looks.data(), {2}, DType::f32), View(pixels.data(), {2}, DType::f32),
                             View(&label, {}, DType::i32), View(numbers.data(), {2}, DType::f32)});
    EXPECT_THAT(looks, ElementsAre(FloatNear(std::sqrt(2.0f), 1e-5f), FloatNear(-std::sqrt(2.0f), 1e-5f))); // blue
    EXPECT_THAT(pixels, ElementsAre(FloatNear(0, 1e-5f), FloatNear(-10 / std::sqrt(1400.0f / 3), 1e-5f)));
    EXPECT_EQ(label, 0);
    EXPECT_THAT(numbers, ElementsAre(7, 0.25f));

    options.inputs[1].columns = {"p*"};
    expect_refusal([&] { open_dataset(options); },
                   "m.toml:6:1: input 'pixels': the column 'price' is to be found, or of another input");
    options.inputs[1].columns = {"q?"};
    expect_refusal_like([&] { open_dataset(options); }, path + ":1: no column named 'q?'");
}
