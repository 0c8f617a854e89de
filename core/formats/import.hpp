// SPDX-License-Identifier: Apache-2.0
// A checkpoint to start from, made of weights in another program's file.
#pragma once

#include "core/config.hpp"
#include "core/formats/weight_source.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace tessera {

struct Imported {
    std::string folder; // of the checkpoint
    std::int64_t step = 0;
    bool with_states = false; // the file holds the optimizer's, too
};

// Where weights are said to lie: a folder of Hugging Face's, a safetensors file, a model file of llm.c. ConfigError for
// anything else. What a folder's config.json says goes before `overrides` and after the file `config_path`, which may
// be empty; a file without any of it must say its config itself (one that was exported here does), or be given one.
struct FoundWeights {
    std::unique_ptr<WeightSource> source;
    Config config;              // of its model
    std::string fitting{};      // a folder's: TOML of its model, for a person to build a config on
    std::string tokenizer{};    // a folder's: what Tokenizer::save() writes; "": it has none
    std::string no_tokenizer{}; // why it is not read
};
FoundWeights find_weights(const std::string& path, const std::string& config_path,
                          const std::vector<std::string>& overrides);

// Of a safetensors file, or a model file of llm.c, by its first bytes. ConfigError for anything else.
std::unique_ptr<WeightSource> open_weight_source(const std::string& path);

// Writes a checkpoint below `checkpoints_folder` of the model and optimizer that `config` describes. Each parameter is
// taken from the source; so are the optimizer's states and the step, where it holds them all (as a file that was
// exported with its states does), and with these the metadata; otherwise the states are fresh and the step is 0. The
// vocabulary is that of the token table. ConfigError when a parameter is missing or has another shape, and when
// the source holds a tensor that the model has not.
// `tokenizer`: what Tokenizer::save() wrote of a folder's, for what reads and writes text.
Imported import_weights(const WeightSource& source, const Config& config, const std::string& checkpoints_folder,
                        const std::string& tokenizer = {});

} // namespace tessera
