// SPDX-License-Identifier: Apache-2.0
// Language models of an LSTM and a GRU, with states that are carried on and in both directions, for the tests of
// parallel modes.
#pragma once

#include "core/config_catalog.hpp"

#include <string>
#include <vector>

namespace tessera {

// 4 micro-batches of 2 rows of 4 tokens; an epoch ends within 20 steps.
inline Config recurrent_config(const std::vector<std::string>& overrides = {}) {
    return Config::parse(R"(
        [data]
        reader = "synthetic"
        vocab_size = 21
        synthetic_tokens = 700
        order = "stream"
        [model]
        type = "layers"
        [[model.layers]]
        name = "embed"
        type = "embedding"
        outputs = 8
        [[model.layers]]
        name = "first"
        type = "lstm"
        hidden = 12
        [[model.layers]]
        type = "dropout"
        probability = 0.1
        [[model.layers]]
        name = "second"
        type = "gru"
        hidden = 10
        [[model.layers]]
        name = "out"
        type = "linear"
        outputs = 21
        [[model.layers]]
        type = "cross_entropy"
        [training]
        steps = 20
        seq_len = 4
        global_batch_size = 8
        local_batch_size = 2
        [optimizer]
        lr = 0.02
        [lr_scheduler]
        warmup_steps = 5
    )",
                         "recurrent.toml", overrides, known_keys());
}

// The same with cells in both directions, on windows in any order: no state goes on.
inline Config bidirectional_config(const std::vector<std::string>& overrides = {}) {
    return Config::parse(R"(
        [data]
        reader = "synthetic"
        vocab_size = 21
        synthetic_tokens = 700
        [model]
        type = "layers"
        [[model.layers]]
        name = "embed"
        type = "embedding"
        outputs = 8
        [[model.layers]]
        name = "first"
        type = "lstm"
        hidden = 6
        bidirectional = true
        [[model.layers]]
        name = "second"
        type = "gru"
        hidden = 5
        bidirectional = true
        bias = false
        [[model.layers]]
        name = "out"
        type = "linear"
        outputs = 21
        [[model.layers]]
        type = "cross_entropy"
        [training]
        steps = 20
        seq_len = 4
        global_batch_size = 8
        local_batch_size = 2
        [optimizer]
        lr = 0.02
        [lr_scheduler]
        warmup_steps = 5
    )",
                         "bidirectional.toml", overrides, known_keys());
}

} // namespace tessera
