// SPDX-License-Identifier: Apache-2.0
// What each reader of the catalog in dataset.cpp does: turn options into runs of tokens.
#pragma once

#include "core/data/dataset.hpp"
#include "core/data/token_windows.hpp"

namespace tessera {

// All throw ConfigError; `validation` is empty unless there are files for it.
TokenRuns read_synthetic(const DatasetOptions& options);
TokenRuns read_text(const DatasetOptions& options);
TokenRuns read_token_files(const DatasetOptions& options);

} // namespace tessera
