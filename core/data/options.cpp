// SPDX-License-Identifier: Apache-2.0
// From the [data] section to option structs. Only the keys that the chosen reader needs are read: others count as
// unread.
#include "core/data/options.hpp"

#include "kernels/error.hpp"

namespace tessera {

DatasetOptions dataset_options(const Config& config, std::int64_t sequence_length, std::uint64_t seed,
                               const std::string& tokenizer_json) {
    DatasetOptions options;
    options.reader = config.get(data_reader);
    options.sequence_length = sequence_length;
    options.tokenizer_json = tokenizer_json;
    options.seed = seed;
    options.validation_fraction = config.get(data_validation_fraction);
    if (!(options.validation_fraction >= 0 && options.validation_fraction < 1))
        config.refuse(data_validation_fraction.name, "must be at least 0 and below 1");
    if (config.get(data_vocabulary) < 0) config.refuse(data_vocabulary.name, "must be at least 0");
    if (options.reader == "synthetic") {
        options.synthetic_tokens = config.get(data_synthetic_tokens);
        if (config.get(data_vocabulary) > 0) options.synthetic_vocabulary = config.get(data_vocabulary);
        return options;
    }
    options.files = config.get(data_files);
    options.validation_files = config.get(data_validation_files);
    if (options.files.empty()) config.refuse(data_files.name, "names no file to train on");
    if (options.reader == "text") {
        options.tokenizer.kind = config.get(data_tokenizer);
        options.tokenizer.vocabulary_size = config.get(data_vocabulary);
    } else {
        options.token_vocabulary = config.get(data_vocabulary);
    }
    return options;
}

SampleOrderOptions order_options(const Config& config, const Dataset& dataset, Split split,
                                 std::int64_t sequence_length, std::uint64_t seed) {
    const bool training = split == Split::train;
    return {.kind = training ? config.get(data_order) : "sequential",
            .seed = seed,
            .samples = dataset.samples(split),
            .window = sequence_length};
}

std::int64_t vocabulary_without_data(const Config& config) {
    const std::string reader = config.get(data_reader);
    const std::int64_t said = config.get(data_vocabulary);
    if (reader == "synthetic") return said > 0 ? said : DatasetOptions().synthetic_vocabulary;
    if (reader != "text") return said;
    const std::string tokenizer = config.get(data_tokenizer);
    if (tokenizer == "byte") return 256;
    return tokenizer == "bpe" ? said : 0;
}

bool has_validation(const Config& config) {
    const bool files = config.get(data_reader) != "synthetic" && !config.get(data_validation_files).empty();
    return files || config.get(data_validation_fraction) > 0;
}

} // namespace tessera
