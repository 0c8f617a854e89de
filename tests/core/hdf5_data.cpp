// SPDX-License-Identifier: Apache-2.0
// HDF5 files as libhdf5 writes them: samples and targets come out as they went in, whatever their types, chunks and
// files; a shuffled epoch decodes each chunk once; what cannot be read is named.
#include "core/checkpoint/hdf5.hpp"
#include "core/data/dataset.hpp"
#include "core/data/hdf5_files.hpp"
#include "core/data/loader.hpp"
#include "core/data/piece_cache.hpp"
#include "tests/core/data_files.hpp"

#include <array>
#include <cmath>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <numeric>
#include <thread>

using namespace tessera;
using hdf5::Id;
using testing::HasSubstr;

namespace {

struct Stored {
    std::vector<hsize_t> shape;
    std::vector<double> values;
    hid_t type = H5T_IEEE_F32LE;
    std::vector<hsize_t> chunk{}; // none: contiguous
};

// Adds a dataset to a file, which it makes where there is none.
void store(const std::string& path, const std::string& name, const Stored& what, bool write = true) {
    hdf5::start();
    const Id file(std::filesystem::exists(path) ? H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT)
                                                : H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT));
    const Id space(H5Screate_simple(static_cast<int>(what.shape.size()), what.shape.data(), nullptr));
    const Id layout(H5Pcreate(H5P_DATASET_CREATE)), links = hdf5::groups_on_the_way();
    if (!what.chunk.empty()) {
        H5Pset_chunk(layout, static_cast<int>(what.chunk.size()), what.chunk.data());
        H5Pset_shuffle(layout);
        H5Pset_deflate(layout, 4);
        H5Pset_fletcher32(layout);
    }
    const Id dataset(H5Dcreate2(file, name.c_str(), what.type, space, links, layout, H5P_DEFAULT));
    ASSERT_GE(dataset, 0);
    if (write) {
        ASSERT_GE(H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, what.values.data()), 0);
    }
}

std::vector<double> counted_up(std::size_t count, double first = 0) {
    std::vector<double> values(count);
    std::iota(values.begin(), values.end(), first);
    return values;
}

// Samples [first, first + count) of three numbers 3 i, 3 i + 1, 3 i + 2, labels i % 4; chunks of 4 and 5 rows.
void store_samples(const std::string& path, hsize_t first, hsize_t count) {
    store(path, "train/x",
          {{count, 3},
           counted_up(3 * count, 3.0 * static_cast<double>(first)),
           H5T_STD_I16BE,
           {std::min<hsize_t>(count, 4), 2}});
    std::vector<double> labels;
    for (hsize_t i = first; i < first + count; ++i)
        labels.push_back(static_cast<double>(i % 4));
    store(path, "train/y", {{count}, labels, H5T_STD_U8LE, {std::min<hsize_t>(count, 5)}});
}

DatasetOptions options_of(std::vector<std::string> files) {
    DatasetOptions options;
    options.reader = "hdf5";
    options.files = std::move(files);
    options.input_field = "/train/x";
    options.target_field = "/train/y";
    options.validation_fraction = 0;
    return options;
}

struct HeldSample {
    std::vector<float> input, numbers;
    std::int32_t label = 0;
};

HeldSample sample_of(const Dataset& dataset, Split split, std::int64_t i) {
    const std::vector<Field>& fields = dataset.form().fields;
    HeldSample sample;
    sample.input.resize(static_cast<std::size_t>(fields[0].shape.count()));
    sample.numbers.resize(static_cast<std::size_t>(fields[1].shape.count()));
    const View label = fields[1].dtype == DType::i32 ? View(&sample.label, {}, DType::i32)
                                                     : View(sample.numbers.data(), fields[1].shape, DType::f32);
    dataset.read(split, i, std::array{View(sample.input.data(), fields[0].shape, DType::f32), label});
    return sample;
}

void expect_refused(const DatasetOptions& options, const std::string& sentence) {
    expect_refusal([&] { sample_of(*open_dataset(options), Split::train, 0); }, sentence);
}

} // namespace

TEST(Hdf5Data, SamplesOfSeveralFilesComeOutNormalised) {
    const TestFolder folder;
    store_samples(folder.path("a.h5"), 0, 11);
    store_samples(folder.path("b.h5"), 11, 6);
    DatasetOptions options = options_of({folder.path("*.h5")});
    options.validation_fraction = 0.25;
    const auto dataset = open_dataset(options);
    ASSERT_EQ(dataset->form().fields[0].shape, Shape{3});
    EXPECT_EQ(dataset->form().classes, 4);
    ASSERT_EQ(dataset->samples(Split::train), 12);
    ASSERT_EQ(dataset->samples(Split::validation), 5);
    // The numbers of a column are 3 i + c, i < 12: mean 16.5 + c, deviation 3 sqrt((12^2 - 1) / 12).
    for (std::int64_t i = 0; i < 17; ++i) {
        const HeldSample sample =
            i < 12 ? sample_of(*dataset, Split::train, i) : sample_of(*dataset, Split::validation, i - 12);
        for (const float value : sample.input)
            EXPECT_NEAR(value, (3.0 * static_cast<double>(i) - 16.5) / (3 * std::sqrt(143.0 / 12)), 1e-6) << i;
        EXPECT_EQ(sample.label, i % 4);
    }
}

TEST(Hdf5Data, AnyIntegersAndFloatsAreNumbers) {
    const std::vector<std::pair<const char*, hid_t>> types = {
        {"i8", H5T_STD_I8LE},   {"u16", H5T_STD_U16BE}, {"i32", H5T_STD_I32LE},  {"u32", H5T_STD_U32LE},
        {"i64", H5T_STD_I64BE}, {"u64", H5T_STD_U64LE}, {"f32", H5T_IEEE_F32BE}, {"f64", H5T_IEEE_F64LE}};
    const TestFolder folder;
    const std::vector<double> values = {1, 5, 2, 9, 3, 120};
    Id half(H5Tcopy(H5T_IEEE_F32LE));
    H5Tset_fields(half, 15, 10, 5, 0, 10);
    H5Tset_precision(half, 16);
    H5Tset_size(half, 2);
    H5Tset_ebias(half, 15);
    const std::string path = folder.path("a.h5");
    store(path, "y", {{3}, {0.5, -1, 7}});
    std::vector<float> first;
    for (const auto& [name, type] : types)
        store(path, name, {{3, 2}, values, type, {2, 2}});
    store(path, "f16", {{3, 2}, values, half, {2, 2}});
    DatasetOptions options = options_of({path});
    options.target_field = "y";
    for (const char* name : {"i8", "u16", "i32", "u32", "i64", "u64", "f32", "f64", "f16"}) {
        options.input_field = name;
        const auto dataset = open_dataset(options);
        EXPECT_EQ(dataset->form().classes, 0);
        const HeldSample sample = sample_of(*dataset, Split::train, 2);
        EXPECT_EQ(sample.numbers, std::vector<float>{7});
        EXPECT_NEAR(sample.input[0], 1 / std::sqrt(2.0 / 3), 1e-6) << name; // of 1, 2, 3
        if (first.empty()) first = sample.input;
        EXPECT_EQ(sample.input, first) << name;
    }
}

// Bytes have one mean and deviation for all; those without their last dim of 1, and flat ones, are images all the same.
TEST(Hdf5Data, ImagesHaveOneMean) {
    const TestFolder folder;
    const std::string path = folder.path("a.h5");
    const std::vector<double> pixels = counted_up(24);
    store(path, "y", {{4}, {0, 1, 2, 3}, H5T_STD_I64LE});
    store(path, "flat", {{4, 6}, pixels, H5T_STD_U8LE});
    store(path, "grey", {{4, 2, 3}, pixels, H5T_STD_U8LE, {3, 1, 2}});
    store(path, "image", {{4, 2, 3, 1}, pixels, H5T_STD_U8LE, {3, 2, 3, 1}});
    DatasetOptions options = options_of({path});
    options.target_field = "y";
    options.image_shape = {2, 3, 1};
    for (const char* name : {"flat", "grey", "image"}) {
        options.input_field = name;
        const auto dataset = open_dataset(options);
        ASSERT_EQ(dataset->form().fields[0].shape, (Shape{2, 3, 1}));
        const double deviation = std::sqrt((24.0 * 24 - 1) / 12);
        for (int i = 0; i < 4; ++i)
            for (std::size_t j = 0; j < 6; ++j)
                EXPECT_NEAR(sample_of(*dataset, Split::train, i).input[j],
                            (6 * i + static_cast<double>(j) - 11.5) / deviation, 1e-6);
        EXPECT_NEAR(dataset->black(0), -11.5 / deviation, 1e-6);
    }
}

TEST(Hdf5Data, ValidationHasFilesOrFieldsOfItsOwn) {
    const TestFolder folder;
    const std::string a = folder.path("a.h5"), b = folder.path("b.h5");
    store_samples(a, 0, 8);
    store_samples(b, 8, 5);
    store(a, "val/x", {{3, 3}, counted_up(9), H5T_STD_I32LE});
    store(a, "val/y", {{3}, {3, 2, 1}, H5T_STD_I32LE});
    DatasetOptions options = options_of({a});
    options.validation_fraction = 0.5; // not used
    options.validation_files = {b};
    const auto files = open_dataset(options);
    EXPECT_EQ(files->samples(Split::train), 8);
    ASSERT_EQ(files->samples(Split::validation), 5);
    EXPECT_EQ(sample_of(*files, Split::validation, 3).label, 11 % 4);
    options.validation_files.clear();
    options.validation_input_field = "val/x";
    options.validation_target_field = "val/y";
    const auto fields = open_dataset(options);
    EXPECT_EQ(fields->samples(Split::train), 8);
    ASSERT_EQ(fields->samples(Split::validation), 3);
    EXPECT_EQ(sample_of(*fields, Split::validation, 1).label, 2);
    EXPECT_EQ(sample_of(*fields, Split::validation, 1).input, sample_of(*fields, Split::train, 1).input);
    EXPECT_NE(files->fingerprint(), fields->fingerprint());
}

// Rows of 128 KiB, so that a piece is one chunk, of 2 rows; the cache has room for 4 of them and their targets.
TEST(Hdf5Data, AShuffledEpochReadsEachChunkOnce) {
    const TestFolder folder;
    const hsize_t rows = 21, width = 32768;
    std::vector<double> values(rows * width);
    for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<double>(i / width);
    store(folder.path("a.h5"), "train/x", {{rows, width}, values, H5T_IEEE_F32LE, {2, width}});
    store(folder.path("a.h5"), "train/y", {{rows}, counted_up(rows), H5T_STD_I32LE, {rows}});
    Hdf5Files files;
    ASSERT_EQ(files.add(folder.path("a.h5"), {"train/x", "train/y"}), 21);
    const SampleBlocks blocks = files.share_out(4 * (2 * 131072 + 21 * 4), 21);
    EXPECT_EQ(blocks.samples, 2);
    EXPECT_EQ(blocks.together, 4);
    const SampleOrder order({.kind = "shuffle", .seed = 3, .samples = 21, .blocks = blocks});
    std::set<const Hdf5Rows*> pieces;
    std::vector<std::shared_ptr<const Hdf5Rows>> held; // so that no memory is used twice
    for (std::int64_t i = 0; i < 21; ++i) {
        const Hdf5Files::Row row = files.row(0, order.sample(i));
        held.push_back(row.rows);
        pieces.insert(row.rows.get());
        row.rows->with_values([&](const auto* numbers) {
            EXPECT_EQ(static_cast<std::int64_t>(numbers[row.number * 32768 + 5]), order.sample(i));
        });
    }
    EXPECT_EQ(pieces.size(), 11u);
}

TEST(Hdf5Data, ThreadsReadTheSame) {
    const TestFolder folder;
    std::vector<std::string> paths;
    for (hsize_t i = 0; i < 70; ++i) { // more than are open at a time
        paths.push_back(folder.path(fmt::format("{:02}.h5", i)));
        store_samples(paths.back(), 7 * i, 7);
    }
    DatasetOptions options = options_of(paths);
    options.cache_bytes = 1;
    const auto dataset = open_dataset(options);
    ASSERT_EQ(dataset->samples(Split::train), 490);
    const SampleOrder order({.kind = "shuffle", .samples = 490, .blocks = dataset->blocks(Split::train)});
    std::array<std::vector<float>, 4> seen;
    {
        std::vector<std::jthread> threads;
        for (std::vector<float>& own : seen)
            threads.emplace_back([&] {
                for (std::int64_t i = 0; i < 490; ++i) {
                    const HeldSample sample = sample_of(*dataset, Split::train, order.sample(i));
                    own.push_back(sample.input[1]);
                    own.push_back(static_cast<float>(sample.label));
                }
            });
    }
    for (const std::vector<float>& own : seen)
        EXPECT_EQ(own, seen[0]);
    for (std::int64_t i = 0; i < 490; ++i)
        ASSERT_EQ(seen[0][static_cast<std::size_t>(2 * i + 1)], static_cast<float>(order.sample(i) % 4));
}

TEST(PieceCache, KeepsWhatWasUsedLast) {
    PieceCache<int> cache(3);
    int reads = 0;
    const auto get = [&](std::int64_t key, std::int64_t bytes = 1) {
        return *cache.get({0, key}, bytes, [&] { return ++reads; });
    };
    EXPECT_EQ(get(1), 1);
    EXPECT_EQ(get(2), 2);
    EXPECT_EQ(get(3), 3);
    EXPECT_EQ(get(1), 1);
    EXPECT_EQ(get(4), 4); // 2 goes
    EXPECT_EQ(get(1), 1);
    EXPECT_EQ(get(3), 3);
    EXPECT_EQ(get(2), 5); // 4 goes
    EXPECT_EQ(get(5, 9), 6);
    EXPECT_EQ(get(5, 9), 6);
    EXPECT_EQ(get(1), 7);
}

TEST(Hdf5Data, NamesWhatIsNoSuchFile) {
    const TestFolder folder;
    const std::string good = folder.path("good.h5");
    store_samples(good, 0, 40);
    expect_refused(options_of({folder.path("no.h5")}), folder.path("no.h5") + ": there is no such file");
    expect_refused(options_of({folder.write("text.h5", "x,y\n1,2\n")}), folder.path("text.h5") + ": is no HDF5 file");
    std::ifstream in(good, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    const std::string cut = folder.write("cut.h5", bytes.substr(0, bytes.size() - 100));
    expect_refusal_like([&] { open_dataset(options_of({cut})); }, cut + ": cannot be opened as HDF5: truncated file");
    DatasetOptions options = options_of({good});
    options.input_field = "/train/z";
    expect_refused(options, good + ": no dataset named '/train/z'; did you mean '/train/x'?");
    options.input_field = "/train";
    expect_refusal_like([&] { open_dataset(options); }, good + ": no dataset named '/train'");
}

TEST(Hdf5Data, NamesWhatDoesNotFit) {
    const TestFolder folder;
    const std::string a = folder.path("a.h5"), b = folder.path("b.h5");
    store_samples(a, 0, 8);
    const auto refused = [&](const std::string& input, const std::string& target, const std::string& sentence) {
        DatasetOptions options = options_of({a});
        options.input_field = input;
        options.target_field = target;
        expect_refused(options, sentence);
    };
    store(a, "scalar", {{}, {1}});
    store(a, "short", {{7}, counted_up(7), H5T_STD_I32LE});
    store(a, "pairs", {{8, 2}, counted_up(16), H5T_STD_I32LE});
    store(a, "nan", {{8}, {1, 2, 3, NAN, 5, 6, 7, 8}});
    store(a, "minus", {{8}, {1, 2, 3, -4, 5, 6, 7, 8}, H5T_STD_I32LE});
    store(a, "unwritten", {{8}, {}, H5T_STD_I32LE, {8}}, false);
    store(a, "wide", {{1 << 20, 4096}, {}, H5T_IEEE_F32LE, {1 << 20, 1}}, false);
    Id texts(H5Tcopy(H5T_C_S1));
    store(a, "texts", {{8}, {}, texts}, false);
    refused("scalar", "train/y", a + ": dataset 'scalar': has no dim of samples, expected (N, …)");
    refused("train/x", "short", a + ": dataset 'short': has 7 rows, but 'train/x' has 8 samples");
    refused("train/x", "pairs",
            a + ": dataset 'pairs': has (2) integers for each sample, expected an integer, which is a class, or floats "
                "(N) or (N, K), which are numbers");
    refused("nan", "train/y", a + ": dataset 'nan', sample 3: holds a number that is not finite");
    refused("train/x", "minus", a + ": dataset 'minus', sample 3: the label -4 is no class from 0 to 16777215");
    refused("train/x", "unwritten", a + ": dataset 'unwritten': holds no data: nothing was ever written to it");
    refused("texts", "train/y", a + ": dataset 'texts': holds texts, expected integers or floats");
    refused("wide", "train/y",
            a + ": dataset 'wide': its chunks reach over 1048576 samples of 16384 bytes, which are decoded together: "
                "expected at most 2147483648 bytes");

    store(b, "train/x", {{5, 4}, counted_up(20), H5T_STD_I16BE});
    store(b, "train/y", {{5}, counted_up(5), H5T_STD_U8LE});
    expect_refused(options_of({a, b}),
                   b + ": dataset '/train/x': samples are (4) of integers, those of " + a + " (3) of integers");
    DatasetOptions options = options_of({a});
    options.image_shape = {2, 2, 1};
    expect_refused(options, a + ": dataset '/train/x': samples are (3), data.image_shape says (2, 2, 1)");
    options.image_shape.clear();
    options.features = 4;
    expect_refused(options, a + ": dataset '/train/x': samples are (3), data.features says (4)");
    options.features = 0;
    options.classes = 3;
    expect_refusal([&] { sample_of(*open_dataset(options), Split::train, 3); },
                   a + ": dataset '/train/y', sample 3: the label 3 is none of the 3 classes");
    options.target_field = "nan";
    expect_refused(options, a + ": dataset 'nan': holds floats, which are numbers to be found, but data.classes says 3 "
                                "classes");
}

// Of the samples to train on: 8 in the first file, 4 of 8 in the second.
TEST(Hdf5Data, KnowsTheMeanOfNumbersToBeFound) {
    const TestFolder folder;
    for (const hsize_t first : {0, 8}) {
        const std::string path = folder.path(first == 0 ? "a.h5" : "b.h5");
        store_samples(path, first, 8);
        store(path, "numbers",
              {{8, 2}, counted_up(16, 1000 + 2.0 * static_cast<double>(first)), H5T_IEEE_F32LE, {3, 2}});
    }
    DatasetOptions options = options_of({folder.path("a.h5"), folder.path("b.h5")});
    options.target_field = "numbers";
    options.validation_fraction = 0.25;
    EXPECT_EQ(open_dataset(options)->form().target_means, (std::vector<double>{1011, 1012}));
}

// Two inputs, each normalised by its own statistics, a label and numbers, in two files whose chunks differ.
TEST(Hdf5Data, HasSeveralInputsAndTargets) {
    const TestFolder folder;
    for (const hsize_t first : {0, 8}) {
        const std::string path = folder.path(first == 0 ? "a.h5" : "b.h5");
        const auto begin = static_cast<double>(first);
        store_samples(path, first, 8);
        store(path, "train/pixels", {{8, 2, 2, 1}, counted_up(32, 4 * begin), H5T_STD_U8LE, {3 + first / 8, 2, 2, 1}});
        store(path, "train/y2", {{8}, counted_up(8), H5T_STD_I32LE});
        store(path, "train/price", {{8, 2}, counted_up(16, 2 * begin), H5T_IEEE_F64LE});
    }
    DatasetOptions options = options_of({folder.path("*.h5")});
    options.input_field = options.target_field = "";
    options.input_fields = {"/train/pixels", "/train/x"};
    options.target_fields = {"/train/y", "/train/price"};
    const auto dataset = open_dataset(options);
    const SampleForm& form = dataset->form();
    ASSERT_EQ(form.fields.size(), 4u);
    EXPECT_EQ(form.fields[0], (Field{"pixels", {2, 2, 1}, DType::f32}));
    EXPECT_EQ(form.fields[1], (Field{"x", {3}, DType::f32}));
    EXPECT_EQ(form.fields[2], (Field{"y", {}, DType::i32}));
    EXPECT_EQ(form.fields[3], (Field{"price", {2}, DType::f32}));
    EXPECT_EQ(form.classes_of(2), 4);
    EXPECT_EQ(form.classes_of(3), 0);
    EXPECT_EQ(form.means_of(3), (std::vector<double>{15, 16}));
    ASSERT_EQ(dataset->samples(Split::train), 16);
    const double of_bytes = std::sqrt((64.0 * 64 - 1) / 12), of_x = 3 * std::sqrt((16.0 * 16 - 1) / 12);
    for (std::int64_t i = 0; i < 16; ++i) {
        std::array<float, 4> pixels{};
        std::array<float, 3> x{};
        std::array<float, 2> price{};
        std::int32_t label = -1;
        dataset->read(Split::train, i,
                      std::array{View(pixels.data(), {2, 2, 1}, DType::f32), View(x.data(), {3}, DType::f32),
                                 View(&label, {}, DType::i32), View(price.data(), {2}, DType::f32)});
        const auto at = static_cast<double>(i);
        EXPECT_NEAR(pixels[3], (4 * at + 3 - 31.5) / of_bytes, 1e-6);
        EXPECT_NEAR(x[2], (3 * at - 22.5) / of_x, 1e-6);
        EXPECT_EQ(label, i % 4);
        EXPECT_EQ(price[1], static_cast<float>(2 * i + 1));
    }
    options.classes = 4;
    EXPECT_EQ(open_dataset(options)->form().classes_of(2), 4);
    options.target_fields = {"/train/y", "/train/y2"};
    options.files = {folder.path("a.h5")};
    expect_refused(options, folder.path("a.h5") + ": data.classes says 4, and there are 2 labels: leave it at 0");
    options.classes = 0;
    EXPECT_EQ(open_dataset(options)->form().classes_of(3), 8);
}

TEST(Hdf5Data, LeavesOutWholeFiles) {
    const TestFolder folder;
    store_samples(folder.path("a.h5"), 0, 8);
    folder.write("b.h5", "no HDF5");
    store(folder.path("c.h5"), "train/x", {{5, 4}, counted_up(20), H5T_STD_I16BE});
    store_samples(folder.path("d.h5"), 8, 4);
    DatasetOptions options = options_of({folder.path("*.h5")});
    options.skip_errors = true;
    const auto dataset = open_dataset(options);
    ASSERT_EQ(dataset->samples(Split::train), 12);
    EXPECT_EQ(sample_of(*dataset, Split::train, 9).label, 9 % 4);
    ASSERT_EQ(dataset->skipped().size(), 1u);
    EXPECT_EQ(dataset->skipped()[0].count, 2);
    EXPECT_EQ(dataset->skipped()[0].first, folder.path("b.h5") + ": is no HDF5 file");
    options.files = {folder.path("b.h5")};
    expect_refused(options, folder.path("b.h5") + ": no file is left to train on");
}

TEST(Hdf5Data, ADamagedChunkIsFound) {
    const TestFolder folder;
    const std::string path = folder.path("a.h5");
    store_samples(path, 0, 8);
    haddr_t place = 0;
    {
        const Id file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)),
            dataset(H5Dopen2(file, "train/x", H5P_DEFAULT));
        const Id space(H5Dget_space(dataset));
        hsize_t offset[2] = {0, 0}, size = 0;
        unsigned filters = 0;
        ASSERT_GE(H5Dget_chunk_info(dataset, space, 2, offset, &filters, &place, &size), 0);
    }
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(place) + 6);
    file.write("\x55\x55", 2);
    file.close();
    expect_refusal_like([&] { open_dataset(options_of({path})); },
                        path + ": dataset '/train/x': samples 0 to 7 cannot be read: ");
}
