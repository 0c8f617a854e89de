// SPDX-License-Identifier: Apache-2.0
// Finds the layouts of a run that fit in memory and would be fastest on a machine. A layout is: a degree for each axis
// of the mesh, schedule of the pipeline, rows of a micro-batch, stage of ZeRO, sequence parallelism, recomputation.
#pragma once

#include "core/cost/step_cost.hpp"
#include "core/run/experiment.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// Keys of a config with other values.
using Choices = std::vector<std::pair<std::string_view, ConfigValue>>;

struct FoundLayout {
    Choices choices; // all that the search has varied
    std::string mesh;
    StepCost cost;
    std::string bounds;      // "products 61 %, optimizer 12 %"
    std::int64_t memory = 0; // bytes of a rank, of the stage that needs most
    double tokens_per_second = 0;
};

struct SearchResult {
    std::vector<FoundLayout> best; // the fastest first
    std::int64_t tried = 0;
    std::int64_t too_large = 0; // for the memory
    std::int64_t refused = 0;   // what cannot be sharded so
    std::int64_t fit = 0;
    std::string refusal; // the sentence of one of the refused; empty when there is none
};

struct SearchOptions {
    int ranks = 1;
    std::int64_t memory = 0; // bytes of a rank
    std::size_t most = 10;   // layouts to return
};

// What the command line says of a key stays as it is; all other keys of a layout are varied. To be fast for large
// models, candidates are ranked by plans of two small depths, from which the deep model follows layer by layer (layer
// of each chunk by layer); those returned are planned as they are. ConfigError when the config does not say its global
// batch size, or the command line sets a key that nothing reads.
SearchResult search_layouts(const Config& config, const SearchOptions& options, const Machine& machine,
                            const Dataset* dataset, const Stream& stream);

} // namespace tessera
