// SPDX-License-Identifier: Apache-2.0
// Boxes of a tensor: where they meet, how one is copied into another, and how a box is cut into blocks that are hashed.
#pragma once

#include "kernels/tensor.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tessera {

// The elements start <= index < start + count, one index per dim.
struct TensorBox {
    std::vector<std::int64_t> start;
    Shape count;

    std::int64_t end(int dim) const { return start[static_cast<std::size_t>(dim)] + count[dim]; }
    std::string text() const; // "(2, 3) at (0, 4)"
};

// The box of `whole` itself.
TensorBox whole_box(const Shape& whole);

// The common elements; a box with count() 0 when there are none. Both have the same number of dims.
TensorBox intersection(const TensorBox& a, const TensorBox& b);

// Copies the elements of `region`, which lies in both boxes, between row-major arrays of the boxes' shapes.
void copy_region(const TensorBox& region, const void* source, const TensorBox& source_box, void* target,
                 const TensorBox& target_box, std::int64_t element_bytes);

// Where the elements of `region`, which lies in `box`, begin in a row-major array of the box's shape: the number of
// elements before them. Nothing when they do not follow each other there.
std::optional<std::int64_t> place_of_run(const TensorBox& region, const TensorBox& box);

// A box of shape `count`, cut into pieces of at most 1 MiB, each contiguous in row-major order and a box itself: what
// is hashed, and the least that is read. The cut is a part of the checkpoint format.
class Blocks {
public:
    static constexpr std::int64_t bytes_of_format = 1 << 20; // cost 0.05 ms to hash, and 1.5 GB 1500 hashes

    // count() > 0. Other pieces than the format's are for who walks over a tensor (walk.hpp).
    Blocks(const Shape& count, DType dtype, std::int64_t most_bytes = bytes_of_format);

    std::int64_t size() const { return leads_ * blocks_per_lead_; }
    TensorBox box(std::int64_t block) const;           // relative to the box that is cut
    std::int64_t first_byte(std::int64_t block) const; // from the first element of the box that is cut

private:
    Shape count_;
    std::int64_t element_bytes_;
    int cut_dim_ = 0; // the outermost dim of which at least one index fits into a block
    std::int64_t leads_ = 1, blocks_per_lead_ = 1, rows_per_block_ = 1, row_bytes_ = 0;
};

} // namespace tessera
