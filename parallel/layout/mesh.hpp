// SPDX-License-Identifier: Apache-2.0
// The ranks of a run as a grid with named axes. Pure arithmetic: knows no MPI and no tensor.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct MeshAxis {
    std::string name; // "data", "tensor", …
    int size = 1;
};

// Ranks are numbered in row-major order over the axes, outermost first: the last axis has neighbouring ranks.
class Mesh {
public:
    // Throws ConfigError when a size is below 1, a name is empty or used twice, or the product exceeds an int.
    explicit Mesh(std::vector<MeshAxis> axes);

    int size() const { return size_; } // product of the axes' sizes; 1 without axes
    int axis_count() const { return static_cast<int>(axes_.size()); }
    const MeshAxis& axis(int index) const { return axes_.at(static_cast<std::size_t>(index)); }
    int shared_axes() const;                     // how many axes have more than one rank
    int axis_named(std::string_view name) const; // throws ConfigError when unknown, with the nearest known name

    // One place per axis. Both throw InternalError when out of range.
    std::vector<int> coordinate(int rank) const;
    int rank(const std::vector<int>& coordinate) const;

    // The ranks that differ from `rank` on this axis only (itself among them), in the axis's order.
    std::vector<int> group(int rank, int axis) const;

    std::string text() const; // "data 2 x tensor 4"

private:
    std::vector<MeshAxis> axes_;
    int size_ = 1;
};

} // namespace tessera
