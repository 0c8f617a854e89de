// SPDX-License-Identifier: Apache-2.0
// A graph as an ONNX file; the only place that knows onnx.proto, its fields and its numbers.
#pragma once

#include "core/formats/onnx/graph.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace tessera {

inline constexpr std::int64_t onnx_opset = 17;

// Fills `part`, which is f32, with the box of its shape that begins at `start` of a tensor of the checkpoint.
using ReadWeights = std::function<void(const std::string& tensor, const std::vector<std::int64_t>& start, View part)>;

struct OnnxFileOptions {
    std::map<std::string, std::string> metadata{};
    std::int64_t most_bytes = 2'000'000'000; // of weights in the file itself: protocol buffers hold 2 GiB
};

// Writes `path`; where the weights are more than most_bytes, `path`.data beside it holds them. Weights are read and
// written a piece at a time. Returns whether there are two files. ConfigError where one is there already.
bool write_onnx_file(const OnnxGraph& graph, const std::string& path, const OnnxFileOptions& options,
                     const ReadWeights& read);

} // namespace tessera
