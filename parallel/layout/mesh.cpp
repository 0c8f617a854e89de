// SPDX-License-Identifier: Apache-2.0
// Row-major arithmetic between ranks and places on the axes.
#include "parallel/layout/mesh.hpp"

#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <cstdint>
#include <fmt/format.h>
#include <limits>

namespace tessera {

Mesh::Mesh(std::vector<MeshAxis> axes) : axes_(std::move(axes)) {
    std::int64_t size = 1;
    for (std::size_t i = 0; i < axes_.size(); ++i) {
        if (axes_[i].name.empty()) throw ConfigError(fmt::format("axis {} of the mesh has no name", i));
        if (axes_[i].size < 1)
            throw ConfigError(
                fmt::format("mesh: axis '{}' has size {}; it must be at least 1", axes_[i].name, axes_[i].size));
        for (std::size_t other = 0; other < i; ++other)
            if (axes_[other].name == axes_[i].name)
                throw ConfigError(fmt::format("mesh: two axes are named '{}'", axes_[i].name));
        size *= axes_[i].size;
        if (size > std::numeric_limits<int>::max())
            throw ConfigError(fmt::format("mesh: the axes up to '{}' already have {} ranks", axes_[i].name, size));
    }
    size_ = static_cast<int>(size);
}

int Mesh::shared_axes() const {
    return static_cast<int>(std::ranges::count_if(axes_, [](const MeshAxis& axis) { return axis.size > 1; }));
}

int Mesh::axis_named(std::string_view name) const {
    std::vector<std::string_view> known;
    for (int i = 0; i < axis_count(); ++i) {
        if (axis(i).name == name) return i;
        known.push_back(axis(i).name);
    }
    throw ConfigError(no_such_name("axis of the mesh", name, known));
}

std::vector<int> Mesh::coordinate(int rank) const {
    if (rank < 0 || rank >= size_) throw InternalError(fmt::format("mesh {}: there is no rank {}", text(), rank));
    std::vector<int> coordinate(axes_.size());
    for (std::size_t i = axes_.size(); i-- > 0;) {
        coordinate[i] = rank % axes_[i].size;
        rank /= axes_[i].size;
    }
    return coordinate;
}

int Mesh::rank(const std::vector<int>& coordinate) const {
    if (coordinate.size() != axes_.size())
        throw InternalError(fmt::format("mesh {}: a coordinate has {} places", text(), coordinate.size()));
    int rank = 0;
    for (std::size_t i = 0; i < axes_.size(); ++i) {
        if (coordinate[i] < 0 || coordinate[i] >= axes_[i].size)
            throw InternalError(
                fmt::format("mesh {}: axis '{}' has no place {}", text(), axes_[i].name, coordinate[i]));
        rank = rank * axes_[i].size + coordinate[i];
    }
    return rank;
}

std::vector<int> Mesh::group(int rank, int axis_index) const {
    std::vector<int> place = coordinate(rank);
    std::vector<int> ranks;
    for (int i = 0; i < axis(axis_index).size; ++i) {
        place[static_cast<std::size_t>(axis_index)] = i;
        ranks.push_back(this->rank(place));
    }
    return ranks;
}

std::string Mesh::text() const {
    std::vector<std::string> parts;
    for (const MeshAxis& axis : axes_)
        parts.push_back(fmt::format("{} {}", axis.name, axis.size));
    return parts.empty() ? "without axes" : fmt::format("{}", fmt::join(parts, " x "));
}

} // namespace tessera
