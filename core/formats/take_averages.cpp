// SPDX-License-Identifier: Apache-2.0
// Tensors under the names of what they are averages of.
#include "core/formats/take_averages.hpp"

#include "core/checkpoint/streamed_save.hpp"
#include "core/optimizers/weight_average.hpp"
#include "core/run/weights.hpp"

namespace tessera {

std::string take_averages(const Checkpoint& checkpoint, const std::string& checkpoints_folder) {
    require_averages(checkpoint);
    std::vector<TensorSource> sources;
    for (const SavedTensor& tensor : checkpoint.tensors()) {
        if (is_optimizer_state(tensor.name)) continue;
        const std::string average = weight_average_of(tensor.name);
        sources.push_back({tensor, [&checkpoint, from = checkpoint.has(average) ? average : tensor.name](
                                       const TensorPiece& piece, const View& part) {
                               checkpoint.read(from, piece.box.start, part);
                           }});
    }
    return save_in_pieces(checkpoints_folder, checkpoint.step(), checkpoint.metadata(), sources);
}

} // namespace tessera
