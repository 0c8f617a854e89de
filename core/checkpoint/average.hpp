// SPDX-License-Identifier: Apache-2.0
// The mean of several checkpoints' weights (Izmailov et al. 2018; Polyak and Juditsky 1992).
#pragma once

#include "core/checkpoint/checkpoint.hpp"

#include <string>
#include <vector>

namespace tessera {

struct Averaged {
    std::string folder;                // of the new checkpoint
    std::vector<std::string> averaged; // tensors
    std::vector<std::string> taken;    // from the checkpoint of the latest step: states of no parameter
    std::vector<std::string> left_out; // optimizer states
};

// Writes a checkpoint below `checkpoints_folder` whose tensors are means over `checkpoints` (at least one), added up in
// f32 in their order. Step and metadata are those of the one of the latest step (the first of several), which also
// says which tensors there are. Optimizer states are left out unless `states` is set; then those of a parameter are
// averaged too, and those of none (the loss scale and its counts) taken from the latest. ConfigError when a tensor is
// missing in one or has another shape or dtype there.
Averaged average_checkpoints(const std::vector<Checkpoint>& checkpoints, const std::string& checkpoints_folder,
                             bool states);

} // namespace tessera
