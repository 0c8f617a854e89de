// SPDX-License-Identifier: Apache-2.0
// The catalog of readers, and the split of what they read.
#include "core/data/dataset.hpp"

#include "core/data/mixed_sources.hpp"
#include "core/data/readers.hpp"
#include "core/data/stored_statistics.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <array>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::int64_t sequence_limit = 1 << 30;

struct Reader {
    std::string_view name;
    std::unique_ptr<Dataset> (*open)(const DatasetOptions&);
};

template <TokenRuns (*read)(const DatasetOptions&, RecordErrors&)>
std::unique_ptr<Dataset> open_windows(const DatasetOptions& options) {
    if (options.sequence_length < 1 || options.sequence_length > sequence_limit)
        throw ConfigError(
            fmt::format("sequence_length is {}, expected from 1 to {}", options.sequence_length, sequence_limit));
    RecordErrors errors(options.skip_errors);
    TokenRuns runs = read(options, errors);
    if (errors.skips()) leave_out_unknown_tokens(runs, errors);
    if (runs.train.empty()) throw DataError(fmt::format("{}: no file is left to train on", options.files[0]));
    if (runs.validation.empty()) split_by_fraction(runs, options.validation_fraction);
    return std::make_unique<TokenWindows>(std::move(runs), options.sequence_length, errors.skipped());
}

constexpr std::array<Reader, 12> catalog = {{
    {"arff", read_table},
    {"csv", read_table},
    {"hdf5", read_hdf5},
    {"idx", read_images},
    {"image_folder", read_image_folder},
    {"labelled", read_labelled},
    {"megatron", open_windows<read_indexed_tokens>},
    {"pairs", read_pairs},
    {"synthetic", open_windows<read_synthetic>},
    {"text", open_windows<read_text>},
    {"tsv", read_table},
    {"tokens", open_windows<read_token_files>},
}};

const Reader& reader_named(std::string_view name) {
    for (const Reader& reader : catalog)
        if (reader.name == name) return reader;
    throw ConfigError(no_such_name("reader", name, reader_names()));
}

} // namespace

std::vector<std::string_view> reader_names() {
    std::vector<std::string_view> names;
    for (const Reader& reader : catalog)
        names.push_back(reader.name);
    return names;
}

void Dataset::read_stored(Split, std::int64_t, std::span<double>, const View&) const {
    throw InternalError("dataset: its inputs have no statistics");
}

std::unique_ptr<Dataset> open_dataset(const DatasetOptions& options) {
    if (!options.statistics_file.empty() && !options.statistics) {
        DatasetOptions own = options;
        own.statistics = statistics_for(options);
        return open_dataset(own);
    }
    if (!options.sources.empty()) return open_mixed(options.sources);
    if (options.open) return options.open(options);
    return reader_named(options.reader).open(options);
}

} // namespace tessera
