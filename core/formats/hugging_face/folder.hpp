// SPDX-License-Identifier: Apache-2.0
// A model as Hugging Face keeps it: a folder with config.json and model.safetensors, or several such files and
// model.safetensors.index.json, which says what lies where:
//   {"metadata": {"total_size": 548105171}, "weight_map": {"wte.weight": "model-00001-of-00002.safetensors", …}}
#pragma once

#include "core/formats/hugging_face/family.hpp"
#include "core/formats/safetensors.hpp"
#include "core/formats/weight_source.hpp"

namespace tessera {

class HubFolder {
public:
    static bool is_one(const std::string& path); // it has a config.json

    // ConfigError for a folder that is none, or of a model that nothing here computes.
    explicit HubFolder(const std::string& path);

    const std::string& path() const { return path_; }
    const HubFamily& family() const { return *family_; }
    const std::vector<HubSetting>& settings() const { return settings_; }
    std::string toml() const; // the settings as a config, which fits

    // The weights, for a model that `config` describes: one whose [model] has the settings.
    std::unique_ptr<WeightSource> weights(const Config& config) const;

private:
    std::string path_;
    JsonValues config_;
    const HubFamily* family_;
    std::vector<HubSetting> settings_;
};

struct HubExport {
    std::optional<DType> narrow;             // of f32
    std::int64_t most_bytes = 5'000'000'000; // of one file's tensors, but for a tensor that alone has more
};
struct HubWritten {
    std::size_t files = 0;      // of weights
    std::string no_tokenizer{}; // why the folder has none, though the model reads text
};

// Writes the weights of `checkpoint`, whose config is `config`, as a new folder; a piece of a tensor at a time, of
// transposed ones the whole; and the tokenizer. ConfigError when the folder is there already, and for a model that
// Hugging Face's of this kind do not compute, with the key's place.
HubWritten write_hub_folder(const Checkpoint& checkpoint, const Config& config, const std::string& path,
                            const HubExport& options);

} // namespace tessera
