// SPDX-License-Identifier: Apache-2.0
// A BERT that tells which letters a text is made of, of a table of some fifty, for the tests of parallel modes.
#pragma once

#include "core/config_catalog.hpp"
#include "tests/core/data_files.hpp"

#include <fmt/format.h>
#include <random>
#include <string>
#include <vector>

namespace tessera {

// Texts of one to twelve letters, so that samples are cut and filled up.
inline const std::string& tiny_labelled_texts() {
    static const TestFolder folder;
    static const std::string path = [] {
        std::mt19937 generator(7);
        std::string lines = "text\tkind\n";
        for (int i = 0; i < 50; ++i) {
            const auto kind = static_cast<char>(generator() % 3);
            for (auto letters = 1 + generator() % 12; letters > 0; --letters)
                lines.push_back(static_cast<char>('a' + 3 * kind + static_cast<char>(generator() % 3)));
            lines += fmt::format("\tkind{}\n", static_cast<int>(kind));
        }
        return folder.write("texts.tsv", lines);
    }();
    return path;
}

// 4 micro-batches of 2 texts of 12 tokens.
inline Config classifier_config(const std::vector<std::string>& overrides = {}) {
    constexpr std::string_view config = R"(
        [data]
        reader = "labelled"
        files = ["{}"]
        delimiter = "\t"
        text_columns = ["text"]
        label_column = "kind"
        tokenizer = "character"
        validation_fraction = 0.2
        [model]
        type = "bert"
        n_layers = 2
        n_heads = 4
        dim = 16
        bias = true
        dropout = 0.1
        init_std = 0.2
        [training]
        steps = 20
        seq_len = 12
        global_batch_size = 8
        local_batch_size = 2
        seed = 5
        [optimizer]
        lr = 0.01
        [lr_scheduler]
        warmup_steps = 5
        [metrics]
        evaluate_batches = 5
    )";
    return Config::parse(fmt::format(config, tiny_labelled_texts()), "classifier.toml", overrides, known_keys());
}

} // namespace tessera
