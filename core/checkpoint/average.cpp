// SPDX-License-Identifier: Apache-2.0
// Sums of pieces, one checkpoint after the other.
#include "core/checkpoint/average.hpp"

#include "core/checkpoint/streamed_save.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tessera {
namespace {

float float_at(const ConstView& view, std::int64_t i) {
    return view.dtype == DType::bf16 ? static_cast<float>(view.as<BFloat16>()[i]) : view.as<float>()[i];
}

void fill_mean(const std::vector<Checkpoint>& checkpoints, const SavedTensor& tensor, const TensorPiece& piece,
               const View& mean) {
    PieceMemory memory;
    std::vector<float> sum(static_cast<std::size_t>(mean.count()));
    for (const Checkpoint& checkpoint : checkpoints) {
        const View part = memory.view(piece, tensor.dtype);
        checkpoint.read(tensor.name, piece.box.start, part);
        for (std::int64_t i = 0; i < part.count(); ++i)
            sum[static_cast<std::size_t>(i)] += float_at(part, i);
    }
    const auto count = static_cast<float>(checkpoints.size());
    for (std::int64_t i = 0; i < mean.count(); ++i) {
        const float value = sum[static_cast<std::size_t>(i)] / count;
        if (mean.dtype == DType::bf16)
            mean.as<BFloat16>()[i] = BFloat16(value);
        else
            mean.as<float>()[i] = value;
    }
}

// "optimizer.first_moment/norm.scale" is the state of a parameter, "optimizer.loss_scale" of none.
bool is_of_parameter(const std::string& state) { return state.find('/') != std::string::npos; }

} // namespace

Averaged average_checkpoints(const std::vector<Checkpoint>& checkpoints, const std::string& checkpoints_folder,
                             bool states) {
    const auto latest = std::max_element(checkpoints.begin(), checkpoints.end(),
                                         [](const Checkpoint& a, const Checkpoint& b) { return a.step() < b.step(); });
    Averaged result;
    std::vector<TensorSource> sources;
    for (const SavedTensor& tensor : latest->tensors()) {
        const bool is_state = is_optimizer_state(tensor.name);
        if (is_state && !states) {
            result.left_out.push_back(tensor.name);
            continue;
        }
        if ((is_state && !is_of_parameter(tensor.name)) || tensor.dtype == DType::i32) {
            result.taken.push_back(tensor.name);
            sources.push_back({tensor, [&latest, tensor](const TensorPiece& piece, const View& part) {
                                   latest->read(tensor.name, piece.box.start, part);
                               }});
            continue;
        }
        for (const Checkpoint& checkpoint : checkpoints)
            checkpoint.require(tensor.name, tensor.whole, tensor.dtype);
        result.averaged.push_back(tensor.name);
        sources.push_back({tensor, [&checkpoints, tensor](const TensorPiece& piece, const View& part) {
                               fill_mean(checkpoints, tensor, piece, part);
                           }});
    }
    std::vector<std::string> folders;
    for (const Checkpoint& checkpoint : checkpoints)
        folders.push_back(checkpoint.folder());
    std::map<std::string, std::string> metadata = latest->metadata();
    metadata["average_of"] = fmt::format("{}", fmt::join(folders, ", "));
    result.folder = save_in_pieces(checkpoints_folder, latest->step(), metadata, sources);
    return result;
}

} // namespace tessera
