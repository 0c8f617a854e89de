// SPDX-License-Identifier: Apache-2.0
// Where a run's folder lies, from two keys and the config file's name.
#include "core/run/folder.hpp"

namespace tessera {

std::filesystem::path settle_run_folder(Config& config) {
    std::string name = config.get(run_name);
    if (name.empty()) name = std::filesystem::path(config.file()).stem().string();
    if (name.find('/') != std::string::npos || name.starts_with('.'))
        config.refuse(run_name.name, "expected a name without '/' and without a leading '.'");
    config.settle(run_name.name, name);
    std::string folder = config.get(run_folder);
    if (folder.empty()) folder = "runs/" + name;
    config.settle(run_folder.name, folder);
    return folder;
}

} // namespace tessera
