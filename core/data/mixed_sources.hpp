// SPDX-License-Identifier: Apache-2.0
// Several sources as one dataset: their samples side by side, all of one form and vocabulary. How they are mixed says
// sample_order.hpp.
#pragma once

#include "core/data/dataset.hpp"

namespace tessera {

// Opens each. Where texts are to be tokenised and no tokenizer is given, one is trained on the texts of all sources.
// Throws ConfigError for weights, DataError for sources that do not fit each other, and what the readers throw.
std::unique_ptr<Dataset> open_mixed(const std::vector<SourceOptions>& sources);

} // namespace tessera
