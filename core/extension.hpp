// SPDX-License-Identifier: Apache-2.0
// What a program built outside of this tree, on the installed library, adds to the catalogs: then configs name it, and
// it is sharded, planned, saved and verified like what is built in. tests/own_program is one.
#pragma once

#include "core/config.hpp"
#include "core/data/dataset.hpp"
#include "core/layers/catalog.hpp"
#include "core/optimizers/optimizer.hpp"

namespace tessera {

struct OptimizerType {
    std::string_view name;
    std::unique_ptr<Optimizer> (*make)(const Config& config); // reads its keys; ConfigError for wrong ones
};

// Of separate samples, which SampleForm tells.
struct ReaderType {
    std::string_view name;
    OpenDataset (*read)(const Config& config); // reads its keys, opens nothing; ConfigError for wrong ones
};

// Names and keys live as long as the program.
struct Extension {
    std::vector<KeyInfo> keys{}; // key_info(KEY) of every Key that the others read
    std::vector<layers::LayerType> layers{};
    std::vector<OptimizerType> optimizers{};
    std::vector<ReaderType> readers{};
};

// Adds to what was added before. Call it before anything else of the library (run_program, launcher/program.hpp).
// Throws InternalError for a name that is taken.
void extend(Extension extension);

const Extension& extension(); // all that was added

} // namespace tessera
