// SPDX-License-Identifier: Apache-2.0
// A model's adapters (core/layers/lora.hpp) added to the weights beside which they were trained.
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/config.hpp"

#include <string>

namespace tessera {

// Writes a checkpoint below `checkpoints_folder` of the same step: W + (alpha / rank) B A for each weight W that has
// adapters, every other weight as it is, no adapters and no states of the optimizer, and a config that says so. Returns
// the folder. `config` is the checkpoint's; a piece of a weight is in memory at a time, and its adapters.
std::string merge_adapters(const Checkpoint& checkpoint, const Config& config, const std::string& checkpoints_folder);

} // namespace tessera
