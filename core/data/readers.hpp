// SPDX-License-Identifier: Apache-2.0
// What the readers of the catalog in dataset.cpp do: turn options into runs of tokens, or into separate samples.
#pragma once

#include "core/data/dataset.hpp"
#include "core/data/token_windows.hpp"

namespace tessera {

// All throw ConfigError for options, DataError for files. `validation` of runs is empty unless there are files for it.
std::unique_ptr<Dataset> read_hdf5(const DatasetOptions& options);
std::unique_ptr<Dataset> read_image_folder(const DatasetOptions& options);
// All files in a folder of images, however deep, as that reader finds them: sorted, links followed, without those whose
// names begin with a dot. DataError where it is none.
std::vector<std::string> files_below(const std::string& folder);
std::unique_ptr<Dataset> read_images(const DatasetOptions& options);
std::unique_ptr<Dataset> read_table(const DatasetOptions& options);
std::unique_ptr<Dataset> read_labelled(const DatasetOptions& options);
std::unique_ptr<Dataset> read_pairs(const DatasetOptions& options);
TokenRuns read_indexed_tokens(const DatasetOptions& options, RecordErrors& errors);
TokenRuns read_synthetic(const DatasetOptions& options, RecordErrors& errors);
TokenRuns read_text(const DatasetOptions& options, RecordErrors& errors);
TokenRuns read_token_files(const DatasetOptions& options, RecordErrors& errors);

// By which a model knows one of several datasets: the last word of its path.
inline std::string field_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// One for the texts of all these files.
std::unique_ptr<Tokenizer> tokenizer_of_texts(const TokenizerOptions& options, const std::vector<std::string>& patterns,
                                              bool skip_errors);
// Where errors are skipped: takes out the texts that no tokenizer of the options' kind can be trained on. Who encodes
// them counts them.
void leave_out_broken(std::vector<NamedText>& texts, const DatasetOptions& options);

} // namespace tessera
