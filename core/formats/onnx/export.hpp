// SPDX-License-Identifier: Apache-2.0
// A checkpoint's model as an ONNX file that computes what it has learned: logits, or the numbers that it finds.
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/config.hpp"
#include "core/data/sample_form.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

struct WrittenOnnx {
    std::size_t nodes = 0;
    std::vector<std::string> inputs{}, outputs{}; // names and shapes: "tokens (batch, 64)"
    bool beside = false;                          // weights lie in FILE.data
};

// In f32, without dropout, with a batch of any size; all other dims are what the config says. Inputs have the names of
// the sample's fields: text as i64 (batch, tokens); images as they are trained on, (batch, height, width, channels),
// normalised. Of text the output is the logits behind each token, of an encoder-decoder those of each target, of which
// it is given all; otherwise what each loss compares with the targets: "logits" or "numbers", of several losses
// "NAME.logits". ConfigError for a layer that ONNX's operators do not compute, by its name.
WrittenOnnx write_onnx(const Checkpoint& checkpoint, const Config& config, const SampleForm& form,
                       const std::string& path, std::int64_t most_bytes);

} // namespace tessera
