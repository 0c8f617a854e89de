// SPDX-License-Identifier: Apache-2.0
// What is said comes first, then what lies beside the weights.
#include "core/formats/hugging_face/tokenizer_source.hpp"

#include "core/data/options.hpp"
#include "core/data/tokenizer.hpp"
#include "core/formats/hugging_face/folder.hpp"
#include "core/run/transfer.hpp"

#include <algorithm>
#include <array>
#include <filesystem>

namespace tessera {

namespace fs = std::filesystem;

bool holds_tokenizer(const std::string& folder) {
    constexpr std::array names = {"tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"};
    std::error_code ignored;
    return std::ranges::any_of(names, [&](const char* name) { return fs::exists(fs::path(folder) / name, ignored); });
}

TokenizerSource tokenizer_source(const Config& config) {
    const std::string named = config.get(data_tokenizer);
    std::string path = config.get(data_tokenizer_file);
    std::error_code ignored;
    const bool is_path =
        named.find('/') != std::string::npos || (!is_tokenizer_kind(named) && fs::is_directory(named, ignored));
    if (path.empty() && is_path) path = named;
    const bool trains_many = named == "bpe" || named == "word" || named == "wordpiece";
    return {path, path.empty() || trains_many ? 0 : config.get(data_vocabulary)};
}

void settle_tokenizer(Config& config) {
    const std::string reader = reader_of(config), from = config.get(model_init_from);
    const bool tokenises = reader == "text" || reader == "pairs" || reader == "labelled";
    const bool said = config.is_set(data_tokenizer.name) || config.is_set(data_tokenizer_file.name);
    if (!tokenises || said || from.empty() || !HubFolder::is_one(from) || !holds_tokenizer(from)) return;
    config.settle(data_tokenizer_file.name, from);
    if (config.is_set(data_vocabulary.name)) return;
    const HubFolder folder(from);
    for (const HubSetting& setting : folder.settings())
        if (setting.key == data_vocabulary.name) config.settle(data_vocabulary.name, setting.value);
}

} // namespace tessera
