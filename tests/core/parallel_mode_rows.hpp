// SPDX-License-Identifier: Apache-2.0
// Rows of the table of parallel modes: models and the words of their configs, and how far from one rank's a run may be.
#pragma once

#include "tests/core/parallel_modes.hpp"
#include "tests/core/tiny_classifier.hpp"
#include "tests/core/tiny_recurrent.hpp"

namespace tessera::mode_rows {

// The largest of all layouts, as measured: 2.5e-7, 7.1e-7 (2.7e-6 of a classifier whose ranks share out two samples)
// and 3.3e-6; of the vocabulary of 50,257, most of whose tokens never come, 2.3e-5 of a tensor.
inline constexpr Distances allowed{.loss = 1e-6, .norm = 4e-6, .tensor = 4e-5};

inline const Words base = {"training.steps=20", "training.global_batch_size=8", "data.vocab_size=21",
                           "model.n_heads=4",   "lr_scheduler.warmup_steps=5",  "metrics.evaluate_batches=5"};

inline Words joined(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

inline const Words images = {"training.steps=20", "training.global_batch_size=8", "metrics.evaluate_batches=5"};

struct Row { // a model, and what of the modes it does not have
    std::string name;
    Words words;
    std::map<std::string, std::string> lacks{}; // why, by mode
    std::string_view layers{};                  // of [[model.layers]]; empty: a model of text
    bool pairs = true;                          // each pair of modes is tried, too

    Config config(const Words& of) const {
        if (name.starts_with("classifier")) return classifier_config(of);
        if (name == "recurrent") return recurrent_config(of);
        if (name.starts_with("bidirectional")) return bidirectional_config(of);
        if (name == "regression")
            return Config::parse(std::string(tiny_regression), "regression.toml", of, known_keys());
        return layers.empty() ? tiny_config(of) : image_config(layers, of);
    }
};

inline constexpr std::string_view no_layers = "\n"; // of a model of images that is no list of layers

} // namespace tessera::mode_rows
