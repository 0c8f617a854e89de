// SPDX-License-Identifier: Apache-2.0
// Transfer learning: a run's first weights are those of another model, as far as it has them.
#pragma once

#include "core/run/weights.hpp"

#include <string>
#include <vector>

namespace tessera {

inline constexpr Key<std::string> model_init_from{
    "model.init_from", "",
    "first weights: a checkpoint, a run, a folder of Hugging Face's, a file of safetensors or llm.c; none: at random"};
inline constexpr Key<bool> model_init_ema{
    "model.init_ema", false, "of the checkpoint in init_from take the weights' moving average (training.ema_decay)"};
inline constexpr Key<std::vector<std::string>> model_init_rename{
    "model.init_rename", "", "rules OURS=THEIRS: what begins with OURS here begins with THEIRS in init_from"};
inline constexpr Key<std::vector<std::string>> model_init_skip{
    "model.init_skip", "", "patterns of names that start at random, whatever init_from has: new heads; * is any text"};

struct Transferred {
    std::vector<std::string> taken;   // weights here that were found
    std::vector<std::string> started; // weights that were not, or were not to be: they are as they were
    std::vector<std::string> beside;  // what lies there and is no weight here
    std::vector<std::string> unlike;  // what that model computes otherwise, a sentence each
};

// Puts what model.init_from has into this rank's boxes of the weights. Of a longer table of positions the first are
// taken. All ranks find the same. ConfigError where nothing fits, and where a tensor has another shape.
Transferred take_weights(const Config& config, const Program& program, const ViewOf& view_of, Stream& stream);

// For people: "12 weights of 14 are those of gpt2; at random: …".
std::string transfer_text(const Transferred& transferred, const std::string& from);

// Reads the keys above; ConfigError for a rule that is none.
void check_transfer_keys(const Config& config);

} // namespace tessera
