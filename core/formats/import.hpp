// SPDX-License-Identifier: Apache-2.0
// A checkpoint to start from, made of weights in another program's file.
#pragma once

#include "core/config.hpp"
#include "core/formats/weight_file.hpp"

#include <cstdint>
#include <string>

namespace tessera {

struct Imported {
    std::string folder; // of the checkpoint
    std::int64_t step = 0;
    bool with_states = false; // the file holds the optimizer's, too
};

// Opens a safetensors file or a model file of llm.c, by its first bytes. ConfigError for anything else.
WeightFile open_weight_file(const std::string& path);

// Writes a checkpoint below `checkpoints_folder` of the model and optimizer that `config` describes. Each parameter is
// taken from the file; so are the optimizer's states and the step, where the file holds them all (as one that was
// exported with its states does), and with these the metadata; otherwise the states are fresh and the step is 0. The
// vocabulary is that of the file's token table. ConfigError when a parameter is missing or has another shape, and when
// the file holds a tensor that the model has not.
Imported import_weights(const WeightFile& file, const Config& config, const std::string& checkpoints_folder);

} // namespace tessera
