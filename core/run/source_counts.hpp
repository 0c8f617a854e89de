// SPDX-License-Identifier: Apache-2.0
// What a run has seen of each source that its data are mixed from: known from the number of steps alone.
#pragma once

#include "core/data/dataset.hpp"
#include "core/run/experiment.hpp"

#include <string>
#include <vector>

namespace tessera {

struct SourceCount {
    std::string name;
    std::int64_t samples = 0, units = 0; // units: tokens of text, else samples
    double epochs = 0;                   // how often it has been gone through
};

// Since the start of the run, over all ranks; empty where the data are of one source.
std::vector<SourceCount> count_sources(const Config& config, const Dataset& dataset, const Experiment& experiment,
                                       std::int64_t steps_done);

// "sources: 'bible' 1,200 samples (76,800 tokens, 1.25 epochs); 'laws' …"
std::string text_of(const std::vector<SourceCount>& counts, const SampleForm& form);

} // namespace tessera
