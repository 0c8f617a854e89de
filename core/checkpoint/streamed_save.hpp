// SPDX-License-Identifier: Apache-2.0
// A checkpoint written by one process that holds only a little of it at a time.
#pragma once

#include "core/checkpoint/walk.hpp"

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace tessera {

// A tensor whose elements are asked for: `fill` writes those of the piece into the view, which has the piece's shape.
struct TensorSource {
    SavedTensor tensor;
    std::function<void(const TensorPiece&, const View&)> fill;
};

// Writes `checkpoints_folder`/step-NNNNNNNN as save_checkpoint of one rank does, but holds one block of a tensor at a
// time (1 MiB). Blocks are asked for in order. Returns the folder. Throws ConfigError when there is such a checkpoint
// already, SystemError when it cannot be written, and what `fill` throws; then nothing is left.
std::string save_in_pieces(const std::string& checkpoints_folder, std::int64_t step,
                           const std::map<std::string, std::string>& metadata,
                           const std::vector<TensorSource>& sources);

} // namespace tessera
