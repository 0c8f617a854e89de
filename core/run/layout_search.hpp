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
    double units_per_second = 0;
    std::string unit; // token or sample
};

struct SearchResult {
    std::vector<FoundLayout> best; // the fastest first
    std::int64_t tried = 0;
    std::int64_t too_large = 0; // for the memory
    std::int64_t refused = 0;   // what cannot be sharded so
    std::int64_t fit = 0;
    std::int64_t slower = 0; // and not planned: they cannot be among the best
    std::string refusal;     // the sentence of one of the refused; empty when there is none
    // Where none fits: of the one that needs least, so far as bounds tell.
    std::int64_t least_memory = 0;
    std::string least_mesh;
    Choices least;
};

struct SearchOptions {
    int ranks = 1;
    std::int64_t memory = 0; // bytes of a rank
    std::size_t most = 10;   // layouts to return
};

// What the command line says of a key stays as it is; all other keys of a layout are varied, where the model has a use
// for them: context and expert ranks for text, spatial ranks for convolutions; and replicas where there are several
// nodes. Layouts are planned in the order of what they take at least (layout_bounds.hpp), until no other can be among
// the fastest. To be fast for deep models, a GPT is then ranked by plans of two small depths, from which the deep model
// follows layer by layer (layer of each chunk by layer); those returned are planned as they are. By a rule, not a
// bound, are left out: micro-batches whose rows are no power of two and not those of the config, gpipe, chunks other
// than 2 and 4, ranks that share out the samples of a micro-batch, replicas of parts of a node, and what shares out or
// computes again more than it takes to fit (ZeRO 2 and 3, or fewer replicas, where less sharing fits without
// recomputation). ConfigError when the config does not say its global batch size, or the command line sets a key that
// nothing reads.
SearchResult search_layouts(const Config& config, const SearchOptions& options, const Machine& machine,
                            const Dataset* dataset, const Stream& stream);

} // namespace tessera
