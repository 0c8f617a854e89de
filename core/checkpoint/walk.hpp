// SPDX-License-Identifier: Apache-2.0
// Tensors of any size, a piece at a time: for tools that must not hold a whole one in memory.
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/checkpoint/tensor_box.hpp"

#include <cstddef>
#include <functional>
#include <string_view>
#include <vector>

namespace tessera {

// A box of a tensor whose elements follow one another in the whole tensor's row-major order.
struct TensorPiece {
    TensorBox box;
    std::int64_t first = 0; // element
};

// In order; at most 16 MiB each. None of a tensor without elements.
std::vector<TensorPiece> pieces_of(const Shape& whole, DType dtype);

// Memory for one piece after the other.
class PieceMemory {
public:
    View view(const TensorPiece& piece, DType dtype); // takes the place of the one before

private:
    std::vector<std::byte> bytes_;
};

// Reads the tensor and calls use(piece, its elements, in memory that it may change). Throws as Checkpoint::read does.
void read_in_pieces(const Checkpoint& checkpoint, const SavedTensor& tensor,
                    const std::function<void(const TensorPiece&, const View&)>& use);

// Whether a tensor of this name belongs to the optimizer and is no weight: "optimizer.first_moment/norm.scale".
inline bool is_optimizer_state(std::string_view name) { return name.starts_with("optimizer."); }

} // namespace tessera
