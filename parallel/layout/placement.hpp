// SPDX-License-Identifier: Apache-2.0
// Where a logical (whole) tensor lives on one axis of the mesh, and which part of it a rank holds.
//
// For a gradient, Replicate means that every rank of the axis holds the whole, finished gradient. Partial means that
// each rank holds a summand of full shape and that the sum over the axis is still owed: all-reducing leads to
// Replicate, reduce-scattering to Shard or Flat. The same words hold for every other tensor.
//
// Flat (weights at rest, gradients and optimizer states under ZeRO) cuts what the other axes leave of the tensor into
// runs of elements in row-major order, whole blocks of flat_block elements, whatever its shape.
#pragma once

#include "kernels/tensor.hpp"
#include "parallel/layout/mesh.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

struct Placement {
    enum class Kind { replicate, shard, partial, at, flat };

    Kind kind = Kind::replicate;
    int value = 0; // shard: the dim (not negative); at: the stage, a place on the axis; else 0

    static Placement replicate() { return {}; }
    static Placement shard(int dim) { return {Kind::shard, dim}; }
    static Placement partial() { return {Kind::partial, 0}; }
    static Placement at(int stage) { return {Kind::at, stage}; }
    static Placement flat() { return {Kind::flat, 0}; }

    std::string text() const; // "Replicate", "Shard(0)", "Partial", "At(1)", "Flat"

    friend bool operator==(const Placement&, const Placement&) = default;
};

using Placements = std::vector<Placement>; // one per axis of the mesh

struct Range {
    std::int64_t begin = 0;
    std::int64_t end = 0; // one past the last

    std::int64_t size() const { return end - begin; }
    friend bool operator==(const Range&, const Range&) = default;
};

// The index-th of `parts` neighbouring pieces of [0, size). Who gets the remainder is decided here and nowhere else:
// the first size % parts pieces hold one more than the others. Pieces may be empty.
Range shard_range(std::int64_t size, int parts, int index);
// The same for units of neighbours that stay together; the last unit may be smaller.
Range shard_range_in_units(std::int64_t size, std::int64_t unit, int parts, int index);

// A part of a logical tensor: one range per dim.
struct Box {
    std::vector<Range> ranges;
    bool held = true; // false where the tensor lives on another stage; its ranges are then empty

    Shape shape() const;
    std::int64_t count() const { return held ? shape().count() : 0; }
    friend bool operator==(const Box&, const Box&) = default;
};

// What the rank at `coordinate` holds of a tensor of shape `whole`. Two axes that shard the same dim shard outer to
// inner in the mesh's order. Throws InternalError when the numbers of axes disagree or a dim or stage does not exist.
// Flat cuts no dim: see run_of.
Box local_box(const Shape& whole, const Placements& placements, const Mesh& mesh, const std::vector<int>& coordinate);

inline constexpr std::int64_t flat_block = 4096; // elements

// The run of elements of its box that the rank at `coordinate` holds: all of them where no axis has Flat. InternalError
// when two have.
Range run_of(const Box& box, const Placements& placements, const Mesh& mesh, const std::vector<int>& coordinate);

// A run of a box's elements as boxes, in order: at most two for each dim but one.
std::vector<Box> boxes_of_run(const Box& box, Range run);

// Calls visit(first element in the whole tensor, first element in the box, count) for each run of elements of `box`
// that lies together in a tensor of shape `whole`.
template <class Visit> void for_each_run(const Shape& whole, const Box& box, const Visit& visit) {
    const Shape part = box.shape();
    if (part.count() == 0) return;
    int inner = whole.rank(); // dims [inner, rank) are whole in the box
    while (inner > 0 && part[inner - 1] == whole[inner - 1])
        --inner;
    const int first = std::max(inner - 1, 0); // a run spans the box's range of this dim
    const std::int64_t run = part.count(first, part.rank());
    for (std::int64_t index = 0; index < part.count() / run; ++index) {
        std::int64_t rest = index;
        std::int64_t at = whole.rank() == 0 ? 0
                                            : box.ranges[static_cast<std::size_t>(first)].begin *
                                                  whole.count(first + 1, whole.rank());
        for (int dim = first - 1; dim >= 0; --dim) {
            at += (box.ranges[static_cast<std::size_t>(dim)].begin + rest % part[dim]) *
                  whole.count(dim + 1, whole.rank());
            rest /= part[dim];
        }
        visit(at, index * run, run);
    }
}

} // namespace tessera
