// SPDX-License-Identifier: Apache-2.0
// Samples to train on. Says what there is and reads one by its number; the order is sample_order.hpp's.
#pragma once

#include "core/data/input_statistics.hpp"
#include "core/data/record_errors.hpp"
#include "core/data/sample_form.hpp"
#include "core/data/sample_order.hpp"
#include "core/data/tokenizer.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace tessera {

enum class Split { train, validation };

// One of several sources of a dataset: its samples are [first, first + samples).
struct SourcePart {
    std::string name;
    double weight = 1; // its share of the samples to train on, before all add up to 1
    std::int64_t first = 0, samples = 0;
    std::int64_t spacing = 1;
    SampleBlocks blocks{};
};

// All calls are thread-safe. A language model's sample is a window: "tokens" (T) are T tokens from any start, "targets"
// (T) the same one token later.
class Dataset {
public:
    virtual ~Dataset() = default;

    virtual const SampleForm& form() const = 0;
    virtual std::int64_t samples(Split split) const = 0; // distinct samples that `read` takes; 0: no such split

    // Fills one view per field, of the field's shape and dtype. Throws DataError for content that cannot be right (a
    // token beyond the vocabulary), InternalError for a sample or a view that was never offered.
    virtual void read(Split split, std::int64_t sample, std::span<const View> views) const = 0;

    // That `read` will be asked for this sample soon: what is far away in memory may be drawn near. Throws nothing.
    virtual void expect(Split, std::int64_t /*sample*/) const {}

    // Samples this far apart have nothing in common: windows of a text overlap with those nearer.
    virtual std::int64_t spacing() const { return form().units; }

    // How separate samples of `split` lie: what is stored in pieces is read piece by piece (sample_order.hpp).
    virtual SampleBlocks blocks(Split) const { return {}; }

    // Those that are mixed (mixed_sources.hpp); empty: there is one, of which the two above tell.
    virtual std::vector<SourcePart> sources(Split) const { return {}; }

    // What data.on_error = "skip" has left out.
    virtual std::vector<SkippedRecords> skipped() const { return {}; }

    virtual const Tokenizer* tokenizer() const = 0; // null when the data has none; lives as long as the dataset

    // What a pixel of 0 is in this channel of this image to train on, as `read` gives it.
    virtual float black(std::int64_t /*sample*/, std::int64_t /*channel*/ = 0) const { return 0; }

    // By which the first field is normalised; null: it is not.
    virtual const InputStatistics* statistics() const { return nullptr; }

    // As `read`, but what `statistics` are of as it is stored, in (stored_shape's count) numbers, and the last field.
    // Of data that have statistics.
    virtual void read_stored(Split split, std::int64_t sample, std::span<double> numbers, const View& target) const;
    // The first field's, but of tables with several inputs, which lie side by side.
    virtual Shape stored_shape() const { return form().fields[0].shape; }

    // What was seen in the data that no record was left out for.
    virtual std::vector<DataFinding> findings() const { return {}; }

    // xxh3-128 (32 hex digits) of all content, the splits and the vocabulary: "has the data changed?". The first call
    // reads everything (memory speed, or the disk's), the next ones remember.
    virtual std::string fingerprint() const = 0;
};

struct DatasetOptions;
struct SourceOptions;
using OpenDataset = std::function<std::unique_ptr<Dataset>(const DatasetOptions&)>;

struct DatasetOptions {
    // csv, tsv, arff  tables of numbers and categories, a sample on each line (table_reader.cpp)
    // hdf5       samples and targets in datasets of HDF5 files, read as they are needed (hdf5_reader.cpp)
    // idx        images and their labels in the format of MNIST, .gz or not (image_reader.cpp)
    // image_folder  JPEG and PNG files, a folder for each class, read as they are needed (image_folder.cpp)
    // labelled   texts of a table's columns and their labels (labelled_reader.cpp)
    // megatron   .bin and .idx of Megatron (indexed_tokens.hpp), mapped: windows do not cross files
    // pairs      a source and a target on each line, or on the same lines of two files (pair_reader.cpp)
    // synthetic  a Markov chain drawn from `seed`, for tests and timings; the best possible loss is about 1.21 nats
    // text       files of text, tokenised into memory and joined: windows run across files
    // tokens     llm.c .bin files, mapped: windows do not cross files, and a file too small for one is refused
    std::string reader = "text";
    // Paths, or patterns with * ? [ ] (a pattern gives its files in the order of their names).
    std::vector<std::string> files;
    std::vector<std::string> validation_files;
    // Without validation_files: this last part of all tokens or samples; 0: no validation.
    double validation_fraction = 0.1;
    std::int64_t sequence_length = 64;

    TokenizerOptions tokenizer; // text: trained on all files, those for validation included
    std::string tokenizer_json; // not empty: this tokenizer (from a checkpoint or a file) instead of a new one
    // tokens, without tokenizer_json. 0: that of the files' magic, GPT-2's 50,257 or Llama 3's 128,256.
    std::int64_t token_vocabulary = 0;

    std::int64_t synthetic_vocabulary = 64;
    std::int64_t synthetic_tokens = 1 << 20;
    std::uint64_t seed = 1; // synthetic only

    // Images, tables, hdf5: the file of what inputs are normalised by (stored_statistics.hpp); empty: found in the part
    // to train on. `statistics` is what the file holds, or what stands in for it.
    std::string statistics_file;
    std::optional<InputStatistics> statistics{};

    bool skip_errors = false; // leave out records and files that are not right, and count them
    // hdf5: records that are not right are found when they are read, although errors are skipped.
    bool records_later = false;

    std::vector<std::string> target_files, validation_target_files; // pairs: none where lines hold both texts
    std::string pair_separator = "\t";                              // pairs: between the two of a line
    std::int64_t target_length = 0;                                 // pairs: tokens; 0: sequence_length

    std::vector<std::string> label_files; // idx: of `files`, as many of each
    std::vector<std::string> validation_label_files;
    std::vector<std::int64_t> image_shape; // (height, width, channels); idx: to expect, empty: that of the files

    std::string input_field, target_field;                       // hdf5: paths of datasets in the files
    std::string validation_input_field, validation_target_field; // hdf5: empty: as for training
    // hdf5: several of each, in place of input_field and target_field; fields are named by the last words of the paths.
    std::vector<std::string> input_fields, target_fields;
    std::vector<std::string> validation_input_fields, validation_target_fields; // empty: as for training
    std::int64_t cache_bytes = 64 << 20; // hdf5: of chunks, decoded; a shuffled order mixes as many

    std::string delimiter = ","; // csv, labelled: one character
    bool header = true;          // csv, labelled: the first line names the columns; else they are "1", "2", …
    std::vector<std::string> text_columns; // labelled: one or two
    std::string label_column;              // tables, labelled: a category; and, or
    std::vector<std::string> targets;      // csv: columns of numbers. All others are features, where `inputs` is empty.
    // Tables: fields of features, each of the columns whose names fit one of the patterns; others are not read.
    struct ColumnGroup {
        std::string name;
        std::vector<std::string> columns;
        std::string where; // for messages
    };
    std::vector<ColumnGroup> inputs;
    std::vector<std::string> category_columns; // csv, tsv: features that are categories; arff says it itself
    bool missing_mean = false; // csv, tsv, arff: missing features are the training data's mean, not refused
    std::int64_t features = 0; // csv, hdf5: to expect; 0: any number

    OpenDataset open{}; // a reader that is not built in (core/extension.hpp); empty: `reader`

    std::int64_t classes = 0; // hdf5, idx, image_folder, tables, labelled: to expect; 0: as many as the data have

    std::vector<SourceOptions> sources; // to mix; empty: what is said above is the one
};

struct SourceOptions {
    std::string name;  // no two have the same
    double weight = 1; // above 0
    std::string where; // for messages, "mix.toml:14:1"
    DatasetOptions data;
};

std::vector<std::string_view> reader_names(); // built in
// Throws ConfigError for options, DataError for files that cannot be used, with the path.
std::unique_ptr<Dataset> open_dataset(const DatasetOptions& options);

} // namespace tessera
