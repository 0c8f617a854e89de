// SPDX-License-Identifier: Apache-2.0
// The [data] section: which dataset, how it is tokenised and ordered.
#pragma once

#include "core/config.hpp"
#include "core/data/augmentation.hpp"
#include "core/data/dataset.hpp"
#include "core/data/sample_order.hpp"

#include <optional>

namespace tessera {

inline constexpr Key<std::string> data_reader{
    "data.reader", "text",
    "text, tokens (llm.c), megatron, pairs, labelled, synthetic, idx (MNIST), hdf5, image_folder, csv, tsv or arff"};
inline constexpr Key<std::string> data_on_error{
    "data.on_error", "stop", "a record or file that is not right: stop, or skip, which counts what it leaves out"};
inline constexpr Key<std::vector<std::string>> data_target_files{
    "data.target_files", "", "pairs: the targets, line by line, of data.files; []: lines of data.files hold both"};
inline constexpr Key<std::vector<std::string>> data_validation_target_files{
    "data.validation_target_files", "", "pairs: the targets of data.validation_files"};
inline constexpr Key<std::string> data_pair_separator{"data.pair_separator", "\t",
                                                      "pairs: what stands between source and target on a line"};
inline constexpr Key<std::int64_t> data_target_length{
    "data.target_length", 0, "pairs: tokens of a target, its end included; 0: training.seq_len, as the source has"};
inline constexpr Key<std::vector<std::string>> data_files{
    "data.files", "",
    "files to train on (patterns allowed), relative to the working directory; image_folder: with a folder for each "
    "class"};
inline constexpr Key<std::vector<std::string>> data_validation_files{
    "data.validation_files", "", "files to evaluate on; none: the last part of data.files"};
inline constexpr Key<double> data_validation_fraction{
    "data.validation_fraction", 0.1,
    "without validation_files: this last share of the tokens or samples is for evaluation"};
inline constexpr Key<std::string> data_tokenizer{
    "data.tokenizer", "character",
    "text: byte, character, bpe, word or wordpiece, trained on the files; or the folder of one"};
inline constexpr Key<std::string> data_tokenizer_file{
    "data.tokenizer_file", "",
    "instead of training one: tokenizer.json, vocab.json, vocab.txt, a SentencePiece .model, or a folder with one"};
inline constexpr Key<std::int64_t> data_vocabulary{
    "data.vocab_size", 0,
    "bpe, wordpiece, word: tokens to train, of word 0: all; tokens: ids in the files, 0: by their magic"};
inline constexpr Key<std::string> data_order{
    "data.order", "shuffle",
    "shuffle (in epochs), random, sequential, or stream: rows and recurrent states go on from step to step"};
inline constexpr Key<std::int64_t> data_synthetic_tokens{"data.synthetic_tokens", 1048576,
                                                         "synthetic: tokens of the chain"};

inline constexpr Key<std::vector<std::string>> data_label_files{"data.label_files", "",
                                                                "idx: labels of the images of data.files"};
inline constexpr Key<std::vector<std::string>> data_validation_label_files{
    "data.validation_label_files", "", "idx: labels of the images of data.validation_files"};
inline constexpr Key<std::int64_t> data_classes{
    "data.classes", 0, "hdf5, idx, image_folder, tables, labelled: of labels; 0: as many as the data have"};
inline constexpr Key<std::vector<std::int64_t>> data_image_shape{
    "data.image_shape", "",
    "idx, hdf5: [height, width, channels], []: as the data are; image_folder: to which images are cut and scaled"};
inline constexpr Key<std::string> data_input_field{"data.input_field", "",
                                                   "hdf5: the dataset of samples (N, …), such as \"/train/images\""};
inline constexpr Key<std::string> data_target_field{
    "data.target_field", "",
    "hdf5: the dataset of what is to be found: integers (N), classes; floats (N) or (N, K), numbers"};
inline constexpr Key<std::string> data_validation_input_field{
    "data.validation_input_field", "", "hdf5: samples to evaluate on, in validation_files or files; none: input_field"};
inline constexpr Key<std::string> data_validation_target_field{"data.validation_target_field", "",
                                                               "hdf5: their targets; none: target_field"};
inline constexpr Key<std::vector<std::string>> data_input_fields{
    "data.input_fields", "",
    "hdf5: several datasets of samples, in place of input_field: inputs named by the last words of their paths"};
inline constexpr Key<std::vector<std::string>> data_target_fields{
    "data.target_fields", "",
    "hdf5: several datasets of what is to be found, each for a loss, in place of target_field"};
inline constexpr Key<std::vector<std::string>> data_validation_input_fields{
    "data.validation_input_fields", "", "hdf5: samples to evaluate on, as many as input_fields; none: input_fields"};
inline constexpr Key<std::vector<std::string>> data_validation_target_fields{
    "data.validation_target_fields", "", "hdf5: their targets; none: target_fields"};
inline constexpr Key<std::vector<std::string>> table_input_columns{
    "data.inputs[].columns", "", "columns of this input by their names, patterns allowed (\"pixel*\")"};
inline constexpr Key<std::string> table_input_name{
    "data.inputs[].name", "", "csv, tsv, arff: an input of its own for a model; columns of none are not read"};
inline constexpr Key<std::int64_t> data_cache{
    "data.cache_mib", 64, "hdf5: of decoded chunks in memory, in MiB; a shuffled order mixes the samples of as many"};
inline constexpr Key<std::string> data_delimiter{"data.delimiter", ",", "csv, labelled: the character between fields"};
inline constexpr Key<bool> data_header{
    "data.header", true, "csv, labelled: the first line names the columns; else they are \"1\", \"2\", …"};
inline constexpr Key<std::string> data_label_column{"data.label_column", "",
                                                    "csv, labelled: the column of a category to be found"};
inline constexpr Key<std::vector<std::string>> data_text_columns{
    "data.text_columns", "", "labelled: the column of the text, or the two of pairs of texts"};
inline constexpr Key<std::vector<std::string>> data_target_columns{
    "data.target_columns", "", "csv: columns of numbers to be found, beside a label or alone; all others are features"};
inline constexpr Key<std::vector<std::string>> data_category_columns{
    "data.category_columns", "", "csv, tsv: features that are categories, each of which becomes a number, 1 or 0"};
inline constexpr Key<std::string> data_missing{
    "data.missing", "stop",
    "csv, tsv, arff: empty, ?, NA, NaN and null: stop, or the column's mean (a category: none)"};
inline constexpr Key<std::int64_t> data_features{
    "data.features", 0, "csv, hdf5: numbers that are features; 0: as the data are, which a plan must read then"};

inline constexpr Key<std::string> data_statistics{"data.statistics", "",
                                                  "images, tables, hdf5: file of means and deviations to normalise by, "
                                                  "of `data prepare CONFIG`; none: found at start"};
inline constexpr Key<std::int64_t> data_prefetch{
    "data.prefetch", 0,
    "micro-batches read ahead, each in memory of its own; 0: 4, of small ones up to 1,024 in 16 MiB"};
inline constexpr Key<std::int64_t> data_loader_threads{
    "data.loader_threads", 0,
    "threads of a rank that read ahead; 0: 1, for image folders as many as cores are left, at most 8"};

inline constexpr Key<std::int64_t> data_random_crop{
    "data.random_crop", 0,
    "images to train on: padded by so many black pixels on each side, and cut to their size at a random place"};
inline constexpr Key<std::vector<double>> data_random_resized_crop{
    "data.random_resized_crop", "",
    "images to train on: [least, most] of the area is cut out and scaled to the whole; [0.08, 1.0] is usual"};
inline constexpr Key<std::vector<double>> data_crop_ratio{
    "data.random_crop_ratio", "",
    "random_resized_crop: [least, most] width by height of what is cut out; []: [3/4, 4/3]"};
inline constexpr Key<bool> data_random_flip{"data.random_flip", false,
                                            "images to train on: left and right exchanged in half of all cases"};
inline constexpr Key<std::int64_t> data_cutout{
    "data.cutout", 0, "images to train on: a square of so many pixels around a random one is grey; 0: none"};
inline constexpr Key<double> data_mixup{
    "data.mixup", 0,
    "samples with a class to train on: mixed in pairs, with shares of the beta distribution of this alpha; 0: none"};

// Whether samples are windows of a text, so many tokens long, or come one by one. Sources that are mixed are alike.
bool reads_text(const Config& config);
// data.reader, or that of the first of several sources.
std::string reader_of(const Config& config);

// `sequence_length`: of text alone. `tokenizer_json`: the tokenizer of a checkpoint, or empty to train one.
DatasetOptions dataset_options(const Config& config, std::int64_t sequence_length, std::uint64_t seed,
                               const std::string& tokenizer_json);
// How samples to train on, of this form, are changed by chance. Reads the keys that such samples have alone.
Augmentation augmentation_in(const Config& config, const SampleForm& form, std::uint64_t seed);
// data.prefetch, and data.loader_threads on a rank, one of `ranks`, that computes with so many threads.
int prefetch_in(const Config& config);
int loader_threads_in(const Config& config, int ranks, int computing_threads);
// `streams`: rows of a step, over all ranks. The validation split is in streams where there are any, else sequential.
SampleOrderOptions order_options(const Config& config, const Dataset& dataset, Split split, std::uint64_t seed,
                                 std::int64_t streams);

// The form of samples that the configuration alone tells; nothing when it takes the data to know.
std::optional<SampleForm> form_without_data(const Config& config, std::int64_t sequence_length);
// The vocabulary of text that the configuration alone tells (byte, bpe, synthetic, tokens with vocab_size), or 0.
std::int64_t vocabulary_without_data(const Config& config);
// Whether the data will have a part to evaluate on.
bool has_validation(const Config& config);

} // namespace tessera
