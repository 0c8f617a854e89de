// SPDX-License-Identifier: Apache-2.0
// The moving averages of a checkpoint's weights as weights.
#pragma once

#include "core/checkpoint/checkpoint.hpp"

#include <string>

namespace tessera {

// Writes a checkpoint below `checkpoints_folder` whose weights are the averages of those that have one
// (optimizers/weight_average.hpp), with no optimizer states, and returns its folder. ConfigError where the checkpoint
// has no average. Tensors are read a piece at a time.
std::string take_averages(const Checkpoint& checkpoint, const std::string& checkpoints_folder);

} // namespace tessera
