// SPDX-License-Identifier: Apache-2.0
// The cut of a tensor into pieces, and reading by it.
#include "core/checkpoint/walk.hpp"

#include <algorithm>

namespace tessera {

namespace {
// Larger than a block of the format, so that ranks' slabs that are cut otherwise are seldom read twice.
constexpr std::int64_t most_bytes = 16 << 20;
} // namespace

std::vector<TensorPiece> pieces_of(const Shape& whole, DType dtype) {
    std::vector<TensorPiece> pieces;
    if (whole.count() == 0) return pieces;
    const Blocks blocks(whole, dtype, most_bytes);
    for (std::int64_t number = 0; number < blocks.size(); ++number)
        pieces.push_back({blocks.box(number), blocks.first_byte(number) / bytes_of(dtype)});
    return pieces;
}

View PieceMemory::view(const TensorPiece& piece, DType dtype) {
    const std::int64_t bytes = piece.box.count.count() * bytes_of(dtype);
    bytes_.resize(std::max(bytes_.size(), static_cast<std::size_t>(bytes)));
    return {bytes_.data(), piece.box.count, dtype};
}

void read_in_pieces(const Checkpoint& checkpoint, const SavedTensor& tensor,
                    const std::function<void(const TensorPiece&, const View&)>& use) {
    PieceMemory memory;
    for (const TensorPiece& piece : pieces_of(tensor.whole, tensor.dtype)) {
        const View part = memory.view(piece, tensor.dtype);
        checkpoint.read(tensor.name, piece.box.start, part);
        use(piece, part);
    }
}

} // namespace tessera
