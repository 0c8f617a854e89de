// SPDX-License-Identifier: Apache-2.0
// The file of data.statistics: by what inputs are normalised, what cleaning counted, and of which data this was found,
// so that it is used for no others.
#pragma once

#include "core/data/dataset.hpp"
#include "core/data/workers.hpp"

#include <string>
#include <utility>
#include <vector>

namespace tessera {

// The files to train on.
struct SourceFiles {
    std::int64_t files = 0, bytes = 0;
    std::string names{};   // hash of names and sizes, in their order
    std::string content{}; // hash of the hashes of all; empty: not looked at
};

struct StoredStatistics {
    InputStatistics statistics;
    std::vector<std::string> names; // of the means: features; empty: channels, or elements without a name
    std::vector<std::pair<std::string, std::string>> made_with; // keys that decide what the numbers are
    SourceFiles sources;
    std::int64_t training = 0, validation = 0; // samples
    std::vector<DataFinding> counts;
};

// What the means of samples of this form stand for; empty: they have no names.
std::vector<std::string> statistics_names(const SampleForm& form);

std::string statistics_text(const StoredStatistics& stored); // JSON
// Throws DataError, with the path, for a file that is none of these.
StoredStatistics read_statistics(const std::string& path);

// Content only where it is asked for; each rank reads its share of the files.
SourceFiles look_at_files(const DatasetOptions& options, bool content, const Workers& workers = {});
std::vector<std::pair<std::string, std::string>> made_with(const DatasetOptions& options);

// What options.statistics_file holds. Throws DataError where it is of other data or keys: files that a reader loads
// whole are compared by content, others by name and size, or by content if `thorough`.
StoredStatistics stored_statistics(const DatasetOptions& options, bool thorough);
inline InputStatistics statistics_for(const DatasetOptions& options) {
    return stored_statistics(options, false).statistics;
}

// Reads all samples, each rank a share of them, and finds statistics and counts: the same bits on any number of ranks.
struct FoundStatistics {
    StoredStatistics stored;
    // The sentence that ends a run on such data, of the first record that is not right; `readable`: data.on_error =
    // "skip" would go on. Empty: all are.
    std::string broken;
    bool readable = true;
};
// `options` of one source. ConfigError where its reader normalises nothing, DataError where no sample is left.
FoundStatistics find_statistics(const DatasetOptions& options, const Workers& workers);

} // namespace tessera
