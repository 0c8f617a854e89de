// SPDX-License-Identifier: Apache-2.0
// From the [data] section to option structs. Only the keys that the chosen reader needs are read: others count as
// unread.
#include "core/data/options.hpp"

#include "core/extension.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {

namespace {

bool is_table(std::string_view reader) { return reader == "csv" || reader == "tsv" || reader == "arff"; }

std::int64_t at_least_0(const Config& config, const Key<std::int64_t>& key) {
    const std::int64_t value = config.get(key);
    if (value < 0) config.refuse(key.name, "must be at least 0");
    return value;
}

constexpr std::int64_t most_of_a_sample = 1 << 24;

std::int64_t count_in(const Config& config, const Key<std::int64_t>& key) {
    const std::int64_t value = config.get(key);
    if (value < 0 || value > most_of_a_sample)
        config.refuse(key.name, fmt::format("must be from 0 to {}", most_of_a_sample));
    return value;
}

void read_shape_of_images(const Config& config, DatasetOptions& options) {
    options.image_shape = config.get(data_image_shape);
    const auto fits = [](std::int64_t size) { return size > 0 && size <= 65536; };
    if (!options.image_shape.empty() &&
        (options.image_shape.size() != 3 || !std::ranges::all_of(options.image_shape, fits)))
        config.refuse(data_image_shape.name, "expected [height, width, channels], each from 1 to 65536");
    options.classes = count_in(config, data_classes);
}

void read_folder_keys(const Config& config, DatasetOptions& options) {
    read_shape_of_images(config, options);
    if (options.image_shape.empty())
        config.refuse(data_image_shape.name, "say [height, width, channels]: images are cut and scaled to it");
    if (options.image_shape[2] != 1 && options.image_shape[2] != 3)
        config.refuse(data_image_shape.name, "channels of image folders are 1, brightness, or 3, colours");
}

void read_image_keys(const Config& config, DatasetOptions& options) {
    options.label_files = config.get(data_label_files);
    options.validation_label_files = config.get(data_validation_label_files);
    if (options.label_files.empty()) config.refuse(data_label_files.name, "names no file of labels");
    if (!options.validation_files.empty() && options.validation_label_files.empty())
        config.refuse(data_validation_label_files.name, "names no file of labels");
    read_shape_of_images(config, options);
}

void read_hdf5_keys(const Config& config, DatasetOptions& options) {
    options.input_field = config.get(data_input_field);
    options.target_field = config.get(data_target_field);
    options.validation_input_field = config.get(data_validation_input_field);
    options.validation_target_field = config.get(data_validation_target_field);
    if (options.input_field.empty()) config.refuse(data_input_field.name, "names no dataset of samples");
    if (options.target_field.empty()) config.refuse(data_target_field.name, "names no dataset of what is to be found");
    if (options.input_field == options.target_field)
        config.refuse(data_target_field.name, "is what data.input_field names, too");
    if (options.validation_files.empty() &&
        options.validation_input_field.empty() != options.validation_target_field.empty())
        config.refuse(options.validation_input_field.empty() ? data_validation_input_field.name
                                                             : data_validation_target_field.name,
                      "names no dataset: those to evaluate on come in a pair");
    const std::int64_t mebibytes = config.get(data_cache);
    if (mebibytes < 1 || mebibytes > 1 << 20) config.refuse(data_cache.name, "must be from 1 to 1048576");
    options.cache_bytes = mebibytes << 20;
    read_shape_of_images(config, options);
    options.features = count_in(config, data_features);
    if (options.features > 0 && !options.image_shape.empty())
        config.refuse(data_features.name, "is for samples that are no images, and data.image_shape is given");
}

void read_table_keys(const Config& config, DatasetOptions& options) {
    if (options.reader == "csv") options.delimiter = config.get(data_delimiter);
    if (options.reader == "tsv") options.delimiter = "\t";
    if (options.reader != "arff") options.header = config.get(data_header);
    if (options.reader != "arff") options.category_columns = config.get(data_category_columns);
    const std::string lacking = config.get(data_missing);
    if (lacking != "stop" && lacking != "mean")
        config.refuse(data_missing.name, no_such_name("choice", lacking, {"mean", "stop"}));
    options.missing_mean = lacking == "mean";
    options.label_column = config.get(data_label_column);
    options.targets = config.get(data_target_columns);
    options.features = count_in(config, data_features);
    if (options.label_column.empty() == options.targets.empty())
        config.refuse(data_label_column.name, "say what is to be found: data.label_column, a category, or "
                                              "data.target_columns, numbers");
    if (!options.label_column.empty()) options.classes = count_in(config, data_classes);
}

void read_labelled_keys(const Config& config, DatasetOptions& options) {
    options.delimiter = config.get(data_delimiter);
    options.header = config.get(data_header);
    options.label_column = config.get(data_label_column);
    options.text_columns = config.get(data_text_columns);
    options.classes = count_in(config, data_classes);
    if (options.label_column.empty()) config.refuse(data_label_column.name, "names no column of labels");
    if (options.text_columns.empty() || options.text_columns.size() > 2)
        config.refuse(data_text_columns.name, "names no column, or more than two");
}

// Whether texts are read, and so tokenised, here.
bool tokenises(const std::string& reader) { return reader == "text" || reader == "pairs" || reader == "labelled"; }

void read_text_keys(const Config& config, DatasetOptions& options) {
    const std::string file = config.get(data_tokenizer_file);
    if (!file.empty() && options.tokenizer_json.empty()) options.tokenizer_json = Tokenizer::open(file)->save();
    if (!file.empty() && tokenises(options.reader)) return;
    if (tokenises(options.reader)) {
        options.tokenizer.kind = config.get(data_tokenizer);
        options.tokenizer.vocabulary_size = config.get(data_vocabulary);
    } else {
        options.token_vocabulary = config.get(data_vocabulary);
    }
}

const ReaderType* added_reader(const Config& config) {
    const std::vector<ReaderType>& added = extension().readers;
    const auto found = std::ranges::find(added, config.get(data_reader), &ReaderType::name);
    return found == added.end() ? nullptr : &*found;
}

void read_pair_keys(const Config& config, DatasetOptions& options) {
    options.target_files = config.get(data_target_files);
    if (options.target_files.empty()) {
        options.pair_separator = config.get(data_pair_separator);
        if (options.pair_separator.empty()) config.refuse(data_pair_separator.name, "is empty");
    } else if (!options.validation_files.empty()) {
        options.validation_target_files = config.get(data_validation_target_files);
        if (options.validation_target_files.empty()) config.refuse(data_validation_target_files.name, "names no file");
    }
    options.target_length = count_in(config, data_target_length);
}

} // namespace

bool reads_text(const Config& config) {
    const std::string reader = config.get(data_reader);
    return added_reader(config) == nullptr && !is_table(reader) && reader != "hdf5" && reader != "idx" &&
           reader != "image_folder";
}

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
    if (reads_text(config)) at_least_0(config, data_vocabulary);
    if (const ReaderType* added = added_reader(config)) {
        options.open = added->read(config);
        return options;
    }
    if (std::vector<std::string_view> names = reader_names(); std::ranges::find(names, options.reader) == names.end()) {
        for (const ReaderType& added : extension().readers)
            names.push_back(added.name);
        config.refuse(data_reader.name, no_such_name("reader", options.reader, names));
    }
    if (options.reader == "synthetic") {
        options.synthetic_tokens = config.get(data_synthetic_tokens);
        if (config.get(data_vocabulary) > 0) options.synthetic_vocabulary = config.get(data_vocabulary);
        return options;
    }
    options.files = config.get(data_files);
    options.validation_files = config.get(data_validation_files);
    if (options.files.empty()) config.refuse(data_files.name, "names no file to train on");
    const std::string on_error = config.get(data_on_error);
    if (on_error != "stop" && on_error != "skip")
        config.refuse(data_on_error.name, no_such_name("choice", on_error, {"skip", "stop"}));
    options.skip_errors = on_error == "skip";
    if (options.reader == "pairs") read_pair_keys(config, options);
    if (options.reader == "labelled") read_labelled_keys(config, options);
    if (options.reader == "hdf5")
        read_hdf5_keys(config, options);
    else if (options.reader == "idx")
        read_image_keys(config, options);
    else if (options.reader == "image_folder")
        read_folder_keys(config, options);
    else if (is_table(options.reader))
        read_table_keys(config, options);
    else
        read_text_keys(config, options);
    return options;
}

Augmentation augmentation_in(const Config& config, const SampleForm& form, std::uint64_t seed) {
    const Shape& shape = form.fields[0].shape;
    if (shape.rank() != 3) return {};
    const Augmentation found{.seed = seed,
                             .crop_padding = config.get(data_random_crop),
                             .flip = config.get(data_random_flip),
                             .cutout = config.get(data_cutout)};
    const std::int64_t least = std::min(shape[0], shape[1]);
    if (found.crop_padding < 0 || found.crop_padding >= least)
        config.refuse(data_random_crop.name,
                      fmt::format("must be from 0 to {}: images are {}", least - 1, shape.text()));
    if (found.cutout < 0 || found.cutout > least)
        config.refuse(data_cutout.name, fmt::format("must be from 0 to {}: images are {}", least, shape.text()));
    return found;
}

SampleOrderOptions order_options(const Config& config, const Dataset& dataset, Split split, std::uint64_t seed,
                                 std::int64_t streams) {
    const bool training = split == Split::train;
    return {.kind = training      ? config.get(data_order)
                    : streams > 0 ? "stream"
                                  : "sequential",
            .seed = seed,
            .samples = dataset.samples(split),
            .window = dataset.spacing(),
            .streams = std::max<std::int64_t>(streams, 1),
            .blocks = dataset.blocks(split)};
}

std::optional<SampleForm> form_without_data(const Config& config, std::int64_t sequence_length) {
    const std::string reader = config.get(data_reader);
    if (reader == "pairs" || reader == "labelled") return std::nullopt; // marks may be ids of their own
    if (reads_text(config)) {
        const std::int64_t vocabulary = vocabulary_without_data(config);
        return vocabulary == 0 ? std::nullopt : std::optional(text_form(sequence_length, vocabulary));
    }
    if (added_reader(config) != nullptr) return std::nullopt;
    const DatasetOptions options = dataset_options(config, 0, 0, {});
    const Field label{"label", {}, DType::i32};
    const bool images = options.reader == "hdf5" && !options.image_shape.empty();
    if (options.reader == "idx" || options.reader == "image_folder" || images) {
        if (options.image_shape.empty() || options.classes == 0) return std::nullopt;
        const Shape shape{options.image_shape[0], options.image_shape[1], options.image_shape[2]};
        return SampleForm{{{"image", shape, DType::f32}, label}, options.classes};
    }
    const bool numbers = !options.targets.empty();
    if (options.features == 0 || (!numbers && options.classes == 0)) return std::nullopt;
    const Field targets{"targets", {static_cast<std::int64_t>(options.targets.size())}, DType::f32};
    return SampleForm{{{"features", {options.features}, DType::f32}, numbers ? targets : label}, options.classes};
}

std::int64_t vocabulary_without_data(const Config& config) {
    const std::string reader = config.get(data_reader);
    const std::int64_t said = config.get(data_vocabulary);
    if (reader == "synthetic") return said > 0 ? said : DatasetOptions().synthetic_vocabulary;
    const std::string file = config.get(data_tokenizer_file);
    if (!file.empty() && (reader == "text" || said == 0)) return Tokenizer::open(file)->vocabulary_size();
    if (reader != "text") return said;
    const std::string tokenizer = config.get(data_tokenizer);
    if (tokenizer == "byte") return 256;
    return tokenizer == "bpe" || tokenizer == "word" || tokenizer == "wordpiece" ? said : 0;
}

bool has_validation(const Config& config) {
    const bool files = config.get(data_reader) != "synthetic" && !config.get(data_validation_files).empty();
    const bool fields = config.get(data_reader) == "hdf5" && !config.get(data_validation_input_field).empty();
    return files || fields || config.get(data_validation_fraction) > 0;
}

} // namespace tessera
