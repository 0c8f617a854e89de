// SPDX-License-Identifier: Apache-2.0
// From the [data] section to option structs. Only the keys that the chosen reader needs are read: others count as
// unread.
#include "core/data/options.hpp"

#include "core/data/readers.hpp"
#include "core/data/source_keys.hpp"
#include "core/extension.hpp"
#include "core/formats/hugging_face/tokenizer_source.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <sched.h>
#include <set>
#include <unistd.h>

namespace tessera {

namespace {

bool is_table(std::string_view reader) { return reader == "csv" || reader == "tsv" || reader == "arff"; }

std::int64_t at_least_0(const DataKeys& keys, const Key<std::int64_t>& key) {
    const std::int64_t value = keys.get(key);
    if (value < 0) keys.refuse(key.name, "must be at least 0");
    return value;
}

constexpr std::int64_t most_of_a_sample = 1 << 24;

std::int64_t count_in(const DataKeys& keys, const Key<std::int64_t>& key) {
    const std::int64_t value = keys.get(key);
    if (value < 0 || value > most_of_a_sample)
        keys.refuse(key.name, fmt::format("must be from 0 to {}", most_of_a_sample));
    return value;
}

void read_shape_of_images(const DataKeys& keys, DatasetOptions& options) {
    options.image_shape = keys.get(data_image_shape);
    const auto fits = [](std::int64_t size) { return size > 0 && size <= 65536; };
    if (!options.image_shape.empty() &&
        (options.image_shape.size() != 3 || !std::ranges::all_of(options.image_shape, fits)))
        keys.refuse(data_image_shape.name, "expected [height, width, channels], each from 1 to 65536");
    options.classes = count_in(keys, data_classes);
}

void read_folder_keys(const DataKeys& keys, DatasetOptions& options) {
    read_shape_of_images(keys, options);
    if (options.image_shape.empty())
        keys.refuse(data_image_shape.name, "say [height, width, channels]: images are cut and scaled to it");
    if (options.image_shape[2] != 1 && options.image_shape[2] != 3)
        keys.refuse(data_image_shape.name, "channels of image folders are 1, brightness, or 3, colours");
}

void read_image_keys(const DataKeys& keys, DatasetOptions& options) {
    options.label_files = keys.get(data_label_files);
    options.validation_label_files = keys.get(data_validation_label_files);
    if (options.label_files.empty()) keys.refuse(data_label_files.name, "names no file of labels");
    if (!options.validation_files.empty() && options.validation_label_files.empty())
        keys.refuse(data_validation_label_files.name, "names no file of labels");
    read_shape_of_images(keys, options);
}

// One dataset of samples, one of what is to be found.
void read_hdf5_field_keys(const DataKeys& keys, DatasetOptions& options) {
    options.input_field = keys.get(data_input_field);
    options.target_field = keys.get(data_target_field);
    options.validation_input_field = keys.get(data_validation_input_field);
    options.validation_target_field = keys.get(data_validation_target_field);
    if (options.input_field.empty()) keys.refuse(data_input_field.name, "names no dataset of samples");
    if (options.target_field.empty()) keys.refuse(data_target_field.name, "names no dataset of what is to be found");
    if (options.input_field == options.target_field)
        keys.refuse(data_target_field.name, "is what data.input_field names, too");
    if (options.validation_files.empty() &&
        options.validation_input_field.empty() != options.validation_target_field.empty())
        keys.refuse(options.validation_input_field.empty() ? data_validation_input_field.name
                                                           : data_validation_target_field.name,
                    "names no dataset: those to evaluate on come in a pair");
}

// Lists of them; where one side has one, a list of one.
void read_hdf5_fields_keys(const DataKeys& keys, DatasetOptions& options) {
    for (const auto& [list, one] :
         {std::pair(data_input_fields, data_input_field), std::pair(data_target_fields, data_target_field)}) {
        if (keys.get(list).empty()) keys.refuse(list.name, "names no dataset, and the other list does: say both");
        if (!keys.get(one).empty()) keys.refuse(one.name, fmt::format("{} is given, too", list.name));
        if (keys.get(list).size() > 64) keys.refuse(list.name, "names more than 64 datasets");
    }
    options.validation_input_fields = keys.get(data_validation_input_fields);
    options.validation_target_fields = keys.get(data_validation_target_fields);
    const auto as_many = [&](const std::vector<std::string>& own, const std::vector<std::string>& of_training,
                             std::string_view key) {
        if (!own.empty() && own.size() != of_training.size())
            keys.refuse(key,
                        fmt::format("names {} datasets, those to train on are {}", own.size(), of_training.size()));
    };
    as_many(options.validation_input_fields, options.input_fields, data_validation_input_fields.name);
    as_many(options.validation_target_fields, options.target_fields, data_validation_target_fields.name);
    std::set<std::string> names;
    for (const std::vector<std::string>* list : {&options.input_fields, &options.target_fields})
        for (const std::string& path : *list)
            if (!names.insert(field_name(path)).second)
                keys.refuse(
                    list == &options.input_fields ? data_input_fields.name : data_target_fields.name,
                    fmt::format("two fields would be named '{}', by the last word of their paths", field_name(path)));
}

void read_hdf5_keys(const DataKeys& keys, DatasetOptions& options) {
    options.input_fields = keys.get(data_input_fields);
    options.target_fields = keys.get(data_target_fields);
    if (options.input_fields.empty() && options.target_fields.empty())
        read_hdf5_field_keys(keys, options);
    else
        read_hdf5_fields_keys(keys, options);
    const std::int64_t mebibytes = keys.get(data_cache);
    if (mebibytes < 1 || mebibytes > 1 << 20) keys.refuse(data_cache.name, "must be from 1 to 1048576");
    options.cache_bytes = mebibytes << 20;
    read_shape_of_images(keys, options);
    options.features = count_in(keys, data_features);
    if (options.features > 0 && !options.image_shape.empty())
        keys.refuse(data_features.name, "is for samples that are no images, and data.image_shape is given");
}

// [[data.inputs]], the same for all sources.
void read_groups_of_columns(const Config& config, DatasetOptions& options) {
    std::set<std::string> names{"label", "targets"};
    for (const ConfigItem& item : config.items("data.inputs")) {
        DatasetOptions::ColumnGroup group{item.get(table_input_name), item.get(table_input_columns), item.where()};
        if (group.name.empty()) item.refuse("an input wants a name");
        if (!names.insert(group.name).second)
            item.refuse(table_input_name.name, "another field of the data has this name");
        if (group.columns.empty()) item.refuse(table_input_columns.name, "names no column");
        options.inputs.push_back(std::move(group));
    }
}

void read_table_keys(const DataKeys& keys, DatasetOptions& options) {
    if (options.reader == "csv") options.delimiter = keys.get(data_delimiter);
    if (options.reader == "tsv") options.delimiter = "\t";
    if (options.reader != "arff") options.header = keys.get(data_header);
    if (options.reader != "arff") options.category_columns = keys.get(data_category_columns);
    const std::string lacking = keys.get(data_missing);
    if (lacking != "stop" && lacking != "mean")
        keys.refuse(data_missing.name, no_such_name("choice", lacking, {"mean", "stop"}));
    options.missing_mean = lacking == "mean";
    options.label_column = keys.get(data_label_column);
    options.targets = keys.get(data_target_columns);
    options.features = count_in(keys, data_features);
    if (options.label_column.empty() && options.targets.empty())
        keys.refuse(data_label_column.name, "say what is to be found: data.label_column, a category, or "
                                            "data.target_columns, numbers");
    read_groups_of_columns(keys.config(), options);
    if (!options.label_column.empty()) options.classes = count_in(keys, data_classes);
}

void read_labelled_keys(const DataKeys& keys, DatasetOptions& options) {
    options.delimiter = keys.get(data_delimiter);
    options.header = keys.get(data_header);
    options.label_column = keys.get(data_label_column);
    options.text_columns = keys.get(data_text_columns);
    options.classes = count_in(keys, data_classes);
    if (options.label_column.empty()) keys.refuse(data_label_column.name, "names no column of labels");
    if (options.text_columns.empty() || options.text_columns.size() > 2)
        keys.refuse(data_text_columns.name, "names no column, or more than two");
}

// Whether texts are read, and so tokenised, here.
bool tokenises(const std::string& reader) { return reader == "text" || reader == "pairs" || reader == "labelled"; }

// A tokenizer of a file, whose tokens the vocabulary must hold where the config says one.
std::string tokenizer_of(const DataKeys& keys, const std::string& path) {
    const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(path);
    const std::int64_t vocabulary = keys.get(data_vocabulary);
    if (vocabulary > 0 && vocabulary < tokenizer->vocabulary_size())
        keys.refuse(data_vocabulary.name,
                    fmt::format("the tokenizer, {}, has {} tokens", path, tokenizer->vocabulary_size()));
    return tokenizer->save();
}

void read_text_keys(const DataKeys& keys, DatasetOptions& options) {
    if (!tokenises(options.reader)) {
        const std::string file = keys.get(data_tokenizer_file); // for who reads what a run writes
        options.token_vocabulary = keys.get(data_vocabulary);
        if (!file.empty() && options.tokenizer_json.empty()) options.tokenizer_json = tokenizer_of(keys, file);
        return;
    }
    const TokenizerSource source = tokenizer_source(keys.config());
    if (!source.path.empty()) {
        if (options.tokenizer_json.empty()) options.tokenizer_json = tokenizer_of(keys, source.path);
        options.token_vocabulary = source.rows;
    } else {
        options.tokenizer.kind = keys.get(data_tokenizer);
        options.tokenizer.vocabulary_size = keys.get(data_vocabulary);
    }
}

const ReaderType* added_reader(const DataKeys& keys) {
    const std::vector<ReaderType>& added = extension().readers;
    const auto found = std::ranges::find(added, keys.get(data_reader), &ReaderType::name);
    return found == added.end() ? nullptr : &*found;
}

void read_pair_keys(const DataKeys& keys, DatasetOptions& options) {
    options.target_files = keys.get(data_target_files);
    if (options.target_files.empty()) {
        options.pair_separator = keys.get(data_pair_separator);
        if (options.pair_separator.empty()) keys.refuse(data_pair_separator.name, "is empty");
    } else if (!options.validation_files.empty()) {
        options.validation_target_files = keys.get(data_validation_target_files);
        if (options.validation_target_files.empty()) keys.refuse(data_validation_target_files.name, "names no file");
    }
    options.target_length = count_in(keys, data_target_length);
}

// Whether samples of this reader are texts, or windows of one.
bool reads_text(const DataKeys& keys) {
    const std::string reader = keys.get(data_reader);
    return added_reader(keys) == nullptr && !is_table(reader) && reader != "hdf5" && reader != "idx" &&
           reader != "image_folder";
}

void check_reader(const DataKeys& keys, const std::string& reader) {
    std::vector<std::string_view> names = reader_names();
    if (std::ranges::find(names, reader) != names.end()) return;
    for (const ReaderType& added : extension().readers)
        names.push_back(added.name);
    keys.refuse(data_reader.name, no_such_name("reader", reader, names));
}

void read_keys_of_reader(const DataKeys& keys, DatasetOptions& options) {
    if (!reads_text(keys)) options.statistics_file = keys.get(data_statistics);
    if (options.reader == "pairs") read_pair_keys(keys, options);
    if (options.reader == "labelled") read_labelled_keys(keys, options);
    if (options.reader == "hdf5")
        read_hdf5_keys(keys, options);
    else if (options.reader == "idx")
        read_image_keys(keys, options);
    else if (options.reader == "image_folder")
        read_folder_keys(keys, options);
    else if (is_table(options.reader))
        read_table_keys(keys, options);
    else
        read_text_keys(keys, options);
}

DatasetOptions options_of(const DataKeys& keys, std::int64_t sequence_length, std::uint64_t seed,
                          const std::string& tokenizer_json) {
    DatasetOptions options;
    options.reader = keys.get(data_reader);
    options.sequence_length = sequence_length;
    options.tokenizer_json = tokenizer_json;
    options.seed = seed;
    options.validation_fraction = keys.get(data_validation_fraction);
    if (!(options.validation_fraction >= 0 && options.validation_fraction < 1))
        keys.refuse(data_validation_fraction.name, "must be at least 0 and below 1");
    if (reads_text(keys)) at_least_0(keys, data_vocabulary);
    if (const ReaderType* added = added_reader(keys)) {
        options.open = added->read(keys.config());
        return options;
    }
    check_reader(keys, options.reader);
    if (options.reader == "synthetic") {
        options.synthetic_tokens = keys.get(data_synthetic_tokens);
        if (keys.get(data_vocabulary) > 0) options.synthetic_vocabulary = keys.get(data_vocabulary);
        return options;
    }
    options.files = keys.get(data_files);
    options.validation_files = keys.get(data_validation_files);
    if (options.files.empty()) keys.refuse(data_files.name, "names no file to train on");
    const std::string on_error = keys.get(data_on_error);
    if (on_error != "stop" && on_error != "skip")
        keys.refuse(data_on_error.name, no_such_name("choice", on_error, {"skip", "stop"}));
    options.skip_errors = on_error == "skip";
    read_keys_of_reader(keys, options);
    return options;
}

void check_mix(const Config& config) {
    for (const auto& key : {data_files, data_validation_files, data_label_files, data_validation_label_files,
                            data_target_files, data_validation_target_files})
        if (!config.get(key).empty()) config.refuse(key.name, "each of the tables [[data.sources]] has its own");
    if (!config.get(data_statistics).empty())
        config.refuse(data_statistics.name, "each of the tables [[data.sources]] has its own");
    if (config.get(data_order) == "stream")
        config.refuse(data_order.name,
                      "goes on with one text from step to step, and there are several [[data.sources]]");
}

// Two numbers, the first above 0 and not above the second; none where the key is not said.
std::vector<double> range_in(const Config& config, const Key<std::vector<double>>& key, double most) {
    const std::vector<double> range = config.get(key);
    if (!range.empty() && (range.size() != 2 || !(range[0] > 0 && range[0] <= range[1] && range[1] <= most)))
        config.refuse(key.name, fmt::format("expected [least, most], above 0 and up to {:g}", most));
    return range;
}

void read_resized_crop(const Config& config, Augmentation& found) {
    const std::vector<double> area = range_in(config, data_random_resized_crop, 1);
    if (area.empty()) return;
    found.least_area = area[0];
    found.most_area = area[1];
    if (const std::vector<double> ratio = range_in(config, data_crop_ratio, 1000); !ratio.empty()) {
        found.least_ratio = ratio[0];
        found.most_ratio = ratio[1];
    }
}

} // namespace

bool reads_text(const Config& config) { return reads_text(sources_in(config).front()); }

std::string reader_of(const Config& config) { return sources_in(config).front().get(data_reader); }

DatasetOptions dataset_options(const Config& config, std::int64_t sequence_length, std::uint64_t seed,
                               const std::string& tokenizer_json) {
    const std::vector<DataKeys> sources = sources_in(config);
    if (!sources.front().is_source()) return options_of(sources.front(), sequence_length, seed, tokenizer_json);
    check_mix(config);
    DatasetOptions options;
    for (const DataKeys& source : sources) {
        const std::uint64_t own_seed = seed + options.sources.size(); // synthetic ones differ
        options.sources.push_back({source.name(), source.weight(), source.where(),
                                   options_of(source, sequence_length, own_seed, tokenizer_json)});
        source.refuse_unread();
    }
    return options;
}

Augmentation augmentation_in(const Config& config, const SampleForm& form, std::uint64_t seed) {
    Augmentation found{.seed = seed};
    const Shape& shape = form.fields[0].shape;
    const bool labelled = form.classes > 0 && form.fields.size() == 2 && form.fields[1].dtype == DType::i32 &&
                          form.fields[1].shape.rank() == 0;
    if (labelled && form.fields[0].dtype == DType::f32 && !form.leaves_out) {
        found.mixup = config.get(data_mixup);
        if (!(found.mixup >= 0 && found.mixup <= 1000)) config.refuse(data_mixup.name, "must be from 0 to 1000");
        found.classes = form.classes;
    }
    if (shape.rank() != 3) return found;
    found.crop_padding = config.get(data_random_crop);
    read_resized_crop(config, found);
    found.flip = config.get(data_random_flip);
    found.cutout = config.get(data_cutout);
    const std::int64_t least = std::min(shape[0], shape[1]);
    if (found.crop_padding < 0 || found.crop_padding >= least)
        config.refuse(data_random_crop.name,
                      fmt::format("must be from 0 to {}: images are {}", least - 1, shape.text()));
    if (found.cutout < 0 || found.cutout > least)
        config.refuse(data_cutout.name, fmt::format("must be from 0 to {}: images are {}", least, shape.text()));
    return found;
}

int prefetch_in(const Config& config) {
    const std::int64_t count = config.get(data_prefetch);
    if (count < 0 || count > 1024) config.refuse(data_prefetch.name, "must be from 0 to 1024");
    return static_cast<int>(count);
}

int loader_threads_in(const Config& config, int ranks, int computing_threads) {
    const std::int64_t count = config.get(data_loader_threads);
    if (count < 0 || count > 256) config.refuse(data_loader_threads.name, "must be from 0 to 256");
    if (count > 0) return static_cast<int>(count);
    const bool decodes = std::ranges::any_of(
        sources_in(config), [](const DataKeys& keys) { return keys.get(data_reader) == "image_folder"; });
    cpu_set_t cores;
    CPU_ZERO(&cores);
    if (!decodes || sched_getaffinity(0, sizeof cores, &cores) != 0) return 1;
    if (ranks > 1 && CPU_COUNT(&cores) == ::sysconf(_SC_NPROCESSORS_ONLN)) return 1; // others have the same cores
    return std::clamp(CPU_COUNT(&cores) - computing_threads, 1, 8);
}

SampleOrderOptions order_options(const Config& config, const Dataset& dataset, Split split, std::uint64_t seed,
                                 std::int64_t streams) {
    const bool training = split == Split::train;
    SampleOrderOptions options{.kind = training      ? config.get(data_order)
                                       : streams > 0 ? "stream"
                                                     : "sequential",
                               .seed = seed};
    const std::vector<SourcePart> sources = dataset.sources(split);
    if (sources.empty()) {
        options.samples = dataset.samples(split);
        options.window = dataset.spacing();
        options.streams = std::max<std::int64_t>(streams, 1);
        options.blocks = dataset.blocks(split);
        return options;
    }
    std::vector<double> weights;
    for (const SourcePart& source : sources)
        weights.push_back(source.weight);
    const std::vector<std::int64_t> whole = whole_weights(weights);
    for (std::size_t i = 0; i < sources.size(); ++i) {
        const SourcePart& source = sources[i];
        if (!training && source.samples == 0) continue;
        const std::int64_t windows = (source.samples - 1) / source.spacing + 1;
        options.sources.push_back(
            {source.name, training ? whole[i] : windows, source.first, source.samples, source.spacing, source.blocks});
    }
    return options;
}

std::optional<SampleForm> form_without_data(const Config& config, std::int64_t sequence_length) {
    const DataKeys keys = sources_in(config).front();
    const std::string reader = keys.get(data_reader);
    if (reader == "pairs" || reader == "labelled") return std::nullopt; // marks may be ids of their own
    if (reads_text(keys)) {
        const std::int64_t vocabulary = vocabulary_without_data(config);
        return vocabulary == 0 ? std::nullopt : std::optional(text_form(sequence_length, vocabulary));
    }
    if (added_reader(keys) != nullptr) return std::nullopt;
    const DatasetOptions options = options_of(keys, 0, 0, {});
    if (!options.input_fields.empty() || !options.inputs.empty()) return std::nullopt;
    const Field label{"label", {}, DType::i32};
    const bool images = options.reader == "hdf5" && !options.image_shape.empty();
    if (options.reader == "idx" || options.reader == "image_folder" || images) {
        if (options.image_shape.empty() || options.classes == 0) return std::nullopt;
        const Shape shape{options.image_shape[0], options.image_shape[1], options.image_shape[2]};
        return SampleForm{{{"image", shape, DType::f32}, label}, options.classes};
    }
    const bool numbers = !options.targets.empty();
    if (numbers && !options.label_column.empty()) return std::nullopt;
    if (options.features == 0 || (!numbers && options.classes == 0)) return std::nullopt;
    const Field targets{"targets", {static_cast<std::int64_t>(options.targets.size())}, DType::f32};
    return SampleForm{{{"features", {options.features}, DType::f32}, numbers ? targets : label}, options.classes};
}

std::int64_t vocabulary_without_data(const Config& config) {
    const std::string reader = reader_of(config);
    const std::int64_t said = config.get(data_vocabulary);
    if (reader == "synthetic") return said > 0 ? said : DatasetOptions().synthetic_vocabulary;
    if (reader == "text") {
        const TokenizerSource source = tokenizer_source(config);
        if (!source.path.empty()) return std::max(Tokenizer::open(source.path)->vocabulary_size(), source.rows);
    }
    const std::string file = config.get(data_tokenizer_file);
    if (!file.empty() && said == 0) return Tokenizer::open(file)->vocabulary_size();
    if (reader != "text") return said;
    const std::string tokenizer = config.get(data_tokenizer);
    if (tokenizer == "byte") return 256;
    return tokenizer == "bpe" || tokenizer == "word" || tokenizer == "wordpiece" ? said : 0;
}

bool has_validation(const Config& config) {
    return std::ranges::any_of(sources_in(config), [](const DataKeys& keys) {
        const std::string reader = keys.get(data_reader);
        const bool files = reader != "synthetic" && !keys.get(data_validation_files).empty();
        const bool fields = reader == "hdf5" && (!keys.get(data_validation_input_field).empty() ||
                                                 !keys.get(data_validation_input_fields).empty() ||
                                                 !keys.get(data_validation_target_fields).empty());
        return files || fields || keys.get(data_validation_fraction) > 0;
    });
}

} // namespace tessera
