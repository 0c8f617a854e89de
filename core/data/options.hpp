// SPDX-License-Identifier: Apache-2.0
// The [data] section: which dataset, how it is tokenised and ordered.
#pragma once

#include "core/config.hpp"
#include "core/data/dataset.hpp"
#include "core/data/sample_order.hpp"

#include <filesystem>

namespace tessera {

inline constexpr Key<std::string> data_reader{"data.reader", "text",
                                              "text, tokens (llm.c .bin files) or synthetic (a Markov chain)"};
inline constexpr Key<std::vector<std::string>> data_files{
    "data.files", "", "files to train on (patterns allowed), relative to the working directory"};
inline constexpr Key<std::vector<std::string>> data_validation_files{
    "data.validation_files", "", "files to evaluate on; none: the last part of data.files"};
inline constexpr Key<double> data_validation_fraction{
    "data.validation_fraction", 0.1, "without validation_files: this last share of the tokens is for evaluation"};
inline constexpr Key<std::string> data_tokenizer{"data.tokenizer", "character", "text: byte, character or bpe"};
inline constexpr Key<std::int64_t> data_vocabulary{"data.vocab_size", 0,
                                                   "bpe: tokens to train; tokens: ids in the files, 0: by their magic"};
inline constexpr Key<std::string> data_order{
    "data.order", "shuffle", "shuffle (epochs in a random order), random (with replacement) or sequential"};
inline constexpr Key<std::int64_t> data_synthetic_tokens{"data.synthetic_tokens", 1048576,
                                                         "synthetic: tokens of the chain"};

// `tokenizer_json`: the tokenizer of a checkpoint, or empty to train one.
DatasetOptions dataset_options(const Config& config, std::int64_t sequence_length, std::uint64_t seed,
                               const std::string& tokenizer_json);
SampleOrderOptions order_options(const Config& config, const Dataset& dataset, Split split,
                                 std::int64_t sequence_length, std::uint64_t seed);

// The vocabulary that the configuration alone tells (byte, bpe, synthetic, tokens with vocab_size); 0 when it takes the
// data to know.
std::int64_t vocabulary_without_data(const Config& config);
// Whether the data will have a part to evaluate on.
bool has_validation(const Config& config);

} // namespace tessera
