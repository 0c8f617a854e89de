// SPDX-License-Identifier: Apache-2.0
// The folder of a run: where its log, metrics, resolved config and checkpoints lie.
#pragma once

#include "core/config.hpp"

#include <filesystem>

namespace tessera {

inline constexpr Key<std::string> run_name{"run.name", "", "name of the run; empty: the config file's name"};
inline constexpr Key<std::string> run_folder{"run.folder", "", "folder of the run; empty: runs/NAME"};

// Reads run.name and run.folder, and settles them in `config` where they are empty. Makes no folder.
std::filesystem::path settle_run_folder(Config& config);

} // namespace tessera
