// SPDX-License-Identifier: Apache-2.0
// One record that is not right in the data of each reader: a run stops with its file and place, or leaves out this one,
// counts it, and has all others.
#include "core/checkpoint/hdf5.hpp"
#include "core/data/data_error.hpp"
#include "core/data/dataset.hpp"
#include "tests/core/data_files.hpp"

#include <array>
#include <cmath>
#include <functional>
#include <gmock/gmock.h>

using namespace tessera;
using hdf5::Id;

namespace {

struct BadRecord {
    std::string what;
    DatasetOptions options;
    std::string kind;     // of the record, as it is counted
    std::string sentence; // how it begins
    std::int64_t kept;    // samples to train on without it
    Split split = Split::train;
};

DatasetOptions options_of(std::string reader, std::vector<std::string> files) {
    DatasetOptions options;
    options.reader = std::move(reader);
    options.files = std::move(files);
    options.validation_fraction = 0;
    options.sequence_length = 2;
    return options;
}

DatasetOptions table_of(std::string reader, std::vector<std::string> files) {
    DatasetOptions options = options_of(std::move(reader), std::move(files));
    options.label_column = "kind";
    if (options.reader == "tsv") options.delimiter = "\t";
    return options;
}

// 12 rows of two numbers and a label i % 3, in chunks of 4: one chunk is damaged where `damage` says so.
std::string hdf5_file(const TestFolder& folder, const std::string& name, bool damage,
                      const std::function<void(std::vector<double>& x, std::vector<double>& y)>& change) {
    hdf5::start();
    std::vector<double> x, y;
    for (int i = 0; i < 12; ++i) {
        x.insert(x.end(), {i * 1.5, 7.0 - i});
        y.push_back(i % 3);
    }
    change(x, y);
    const std::string path = folder.path(name);
    haddr_t place = 0;
    {
        const Id file(H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT));
        for (const bool inputs : {true, false}) {
            const hsize_t sizes[] = {12, 2}, chunk[] = {4, 2};
            const Id space(H5Screate_simple(inputs ? 2 : 1, sizes, nullptr)), layout(H5Pcreate(H5P_DATASET_CREATE));
            H5Pset_chunk(layout, inputs ? 2 : 1, chunk);
            H5Pset_fletcher32(layout);
            const Id dataset(H5Dcreate2(file, inputs ? "x" : "y", inputs ? H5T_IEEE_F32LE : H5T_STD_I32LE, space,
                                        H5P_DEFAULT, layout, H5P_DEFAULT));
            H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, (inputs ? x : y).data());
        }
    }
    if (!damage) return path;
    {
        const Id file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)), dataset(H5Dopen2(file, "x", H5P_DEFAULT));
        const hsize_t offset[] = {4, 0};
        hsize_t size = 0;
        unsigned filters = 0;
        H5Dget_chunk_info_by_coord(dataset, offset, &filters, &place, &size);
    }
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(place) + 6);
    file.write("\x55\x55", 2);
    return path;
}

DatasetOptions hdf5_of(const std::string& path) {
    DatasetOptions options = options_of("hdf5", {path});
    options.input_field = "x";
    options.target_field = "y";
    return options;
}

std::vector<BadRecord> hdf5_records(const TestFolder& folder) {
    const std::string nan = hdf5_file(folder, "nan.h5", false, [](auto&x, auto&) { x[2 * 5] = NAN; }),
                      label = hdf5_file(folder, "label.h5", false, [](auto&, auto&y) { y[7] = -1; }),
                      beyond = hdf5_file(folder, "beyond.h5", false, [](auto&, auto&y) { y[7] = 5; }),
                      chunk = hdf5_file(folder, "chunk.h5", true, [](auto&, auto&) {});
    BadRecord of_classes{"hdf5, a label beyond the classes", hdf5_of(beyond), "sample",
                         beyond + ": dataset 'y', sample 7: the label 5 is none of the 3 classes", 11};
    of_classes.options.classes = 3;
    return {{"hdf5, not a number", hdf5_of(nan), "sample",
             nan + ": dataset 'x', sample 5: holds a number that is not finite", 11},
            {"hdf5, a label", hdf5_of(label), "sample",
             label + ": dataset 'y', sample 7: the label -1 is no class from 0 to 16777215", 11},
            of_classes,
            {"hdf5, a damaged chunk", hdf5_of(chunk), "sample", chunk + ": dataset 'x': samples ", 8}};
}

std::vector<BadRecord> text_records(const TestFolder& folder) {
    const std::string good = folder.write("good.txt", "abcd\n"), known = R"({"kind":"character","code_points":[10,97,)"
                                                                         R"(98,99,100]})";
    const std::string broken = folder.write("broken.txt", "ab\ncd\xff\ndc\n"),
                      other = folder.write("x.txt", "ab\nxy\ncd");
    BadRecord unknown{"text, an unknown character", options_of("text", {other}), "line",
                      other + ":2: the character 'x' (U+0078) at byte 0 is not in the vocabulary of 5 characters",
                      5 - 2};
    unknown.options.tokenizer_json = known;
    const std::string pairs = folder.write("pairs.tsv", "a\tb\nb\ta\xff\nab\tba\n");
    BadRecord pair{"pairs, broken UTF-8", options_of("pairs", {pairs}), "pair",
                   pairs + ":2: byte 1 (0xff) is not valid UTF-8", 2};
    const std::string rows = folder.write("rows.csv", "kind,text\na,abc\nb,\xff\nb,cab\n");
    BadRecord labelled{"labelled, broken UTF-8", table_of("labelled", {rows}), "row",
                       rows + ":3: byte 0 (0xff) is not valid UTF-8", 2};
    labelled.options.text_columns = {"text"};
    labelled.options.sequence_length = 8;
    return {{"text, broken UTF-8", options_of("text", {broken, good}), "line",
             broken + ":2: byte 2 (0xff) is not valid UTF-8", 11 - 2},
            unknown,
            pair,
            labelled};
}

std::vector<BadRecord> table_records(const TestFolder& folder) {
    const std::string ragged = folder.write("ragged.csv", "x,kind\n1,a\n2\n3,b\n"),
                      tabs = folder.write("t.tsv", "x\tkind\n1\ta\ntwo\tb\n3\tb\n"),
                      arff = folder.write("t.arff", "@relation t\n@attribute x real\n@attribute kind {a,b}\n@data\n"
                                                    "1,a\n2,c\n3,b\n");
    BadRecord validation{"csv, a label that training has not",
                         table_of("csv", {folder.write("c.csv", "x,kind\n1,a\n2,b\n")}),
                         "row",
                         folder.path("v.csv") + ":3: the label 'c' is none of the 2 classes",
                         2,
                         Split::validation};
    validation.options.validation_files = {folder.write("v.csv", "x,kind\n5,b\n6,c\n7,a\n")};
    BadRecord headless{"csv without a header, its first row",
                       table_of("csv", {folder.write("h.csv", "one,a\n1,b\n2,a\n")}), "row",
                       folder.path("h.csv") + ":1: column '1' is 'one', expected a number", 2};
    headless.options.header = false;
    headless.options.label_column = "2";
    return {
        headless,
        {"csv, a ragged row", table_of("csv", {ragged}), "row", ragged + ":3: 1 fields, expected 2", 2},
        {"tsv, a word", table_of("tsv", {tabs}), "row", tabs + ":3: column 'x' is 'two', expected a number", 2},
        {"arff, an unknown category", table_of("arff", {arff}), "row", arff + ":6: the label 'c' is none of the 2", 2},
        validation};
}

std::vector<BadRecord> token_records(const TestFolder& folder) {
    BadRecord tokens{"tokens, beyond the vocabulary",
                     options_of("tokens", {folder.write("a.bin", token_file({1, 2, 3, 99, 4, 5, 6, 7}))}), "token",
                     folder.path("a.bin") + ": token number 3 is 99, beyond the vocabulary of 10", 1 + 2};
    tokens.options.token_vocabulary = 10;
    return {tokens};
}

void expect_left_out(BadRecord record) {
    SCOPED_TRACE(record.what);
    try { // found when it is opened, or when it is read
        const auto dataset = open_dataset(record.options);
        std::vector<std::vector<std::byte>> room;
        for (std::int64_t i = 0; i < dataset->samples(record.split); ++i) {
            std::vector<View> views;
            for (const Field& field : dataset->form().fields) {
                room.emplace_back(static_cast<std::size_t>(field.shape.count() * 4));
                views.emplace_back(room.back().data(), field.shape, field.dtype);
            }
            dataset->read(record.split, i, views);
        }
        ADD_FAILURE() << "does not stop";
    } catch (const DataError& error) {
        const std::string place =
            record.kind == "line" ? record.sentence.substr(0, record.sentence.find(':')) : record.sentence;
        EXPECT_EQ(std::string(error.what()).substr(0, place.size()), place);
    }
    record.options.skip_errors = true;
    const auto dataset = open_dataset(record.options);
    EXPECT_EQ(dataset->samples(record.split), record.kept);
    ASSERT_EQ(dataset->skipped().size(), 1u);
    EXPECT_EQ(dataset->skipped()[0].kind, record.kind);
    EXPECT_EQ(dataset->skipped()[0].first.substr(0, record.sentence.size()), record.sentence);
}

} // namespace

TEST(DataOnError, EachReaderStopsOrLeavesOutOneRecord) {
    const TestFolder folder;
    for (const auto& records :
         {hdf5_records(folder), text_records(folder), table_records(folder), token_records(folder)})
        for (const BadRecord& record : records)
            expect_left_out(record);
}

TEST(DataOnError, FilesToEvaluateOnAreNotReplaced) {
    const TestFolder folder;
    DatasetOptions options = table_of("csv", {folder.write("c.csv", "x,kind\n1,a\n2,b\n3,a\n4,b\n")});
    options.validation_files = {folder.write("v.csv", "x,kind\n5,c\n")};
    options.validation_fraction = 0.5;
    options.skip_errors = true;
    EXPECT_THAT([&] { open_dataset(options); },
                testing::ThrowsMessage<DataError>(testing::HasSubstr("v.csv: no row is left to evaluate on")));
}

// What is left out leaves the others as they are: rows behind a damaged chunk, and statistics without it.
TEST(DataOnError, RowsOfHdf5BehindOnesThatAreLeftOutAreThemselves) {
    const TestFolder folder;
    DatasetOptions options =
        hdf5_of(hdf5_file(folder, "chunk.h5", true, [](auto& x, auto& y) { x[0] = INFINITY, y[10] = -3; }));
    options.skip_errors = true;
    options.validation_fraction = 0.34;
    const auto dataset = open_dataset(options);
    ASSERT_EQ(dataset->samples(Split::train), 3);      // 1, 2, 3
    ASSERT_EQ(dataset->samples(Split::validation), 3); // 8, 9, 11
    EXPECT_EQ(dataset->skipped()[0].count, 6);
    const std::array rows{1, 2, 3, 8, 9, 11};
    for (std::size_t i = 0; i < rows.size(); ++i) {
        std::array<float, 2> input{};
        std::int32_t label = -1;
        dataset->read(i < 3 ? Split::train : Split::validation, static_cast<std::int64_t>(i % 3),
                      std::array{View(input.data(), {2}, DType::f32), View(&label, {}, DType::i32)});
        EXPECT_EQ(label, rows[i] % 3);
        EXPECT_NEAR(input[0], (rows[i] - 2) / std::sqrt(2.0 / 3), 1e-5); // 1, 2, 3 have the mean 2
        EXPECT_NEAR(input[1], -(rows[i] - 2) / std::sqrt(2.0 / 3), 1e-5);
    }
}

TEST(DataOnError, AFolderOfAnUnknownClassIsLeftOut) {
    const TestFolder folder;
    const std::string pixel = "P"; // no image: what it holds is looked at only where errors are skipped
    for (const std::string name : {"train/a", "train/b", "more/a", "more/c"})
        std::filesystem::create_directories(folder.path(name));
    DatasetOptions options = options_of("image_folder", {folder.path("train")});
    options.image_shape = {2, 2, 1};
    options.validation_files = {folder.path("more")};
    options.statistics = no_change();
    folder.write("train/a/1.png", pixel), folder.write("train/b/1.png", pixel);
    folder.write("more/a/1.png", pixel), folder.write("more/c/1.png", pixel);
    expect_refusal([&] { open_dataset(options); },
                   folder.path("more/c") + ": none of the 2 classes of the training data");
    options.skip_errors = true;
    try {
        open_dataset(options);
        ADD_FAILURE() << "no image is left, and it is opened";
    } catch (const DataError& error) {
        EXPECT_EQ(std::string(error.what()), folder.path("train") + ": no image is left to train on");
    }
}
