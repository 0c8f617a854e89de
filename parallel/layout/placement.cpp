// SPDX-License-Identifier: Apache-2.0
// Cuts logical tensors into the parts that ranks hold.
#include "parallel/layout/placement.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {

std::string Placement::text() const {
    switch (kind) {
    case Kind::replicate:
        return "Replicate";
    case Kind::shard:
        return fmt::format("Shard({})", value);
    case Kind::partial:
        return "Partial";
    case Kind::at:
        return fmt::format("At({})", value);
    }
    throw InternalError(fmt::format("placement of kind {}", static_cast<int>(kind)));
}

Range shard_range(std::int64_t size, int parts, int index) {
    if (size < 0 || parts < 1 || index < 0 || index >= parts)
        throw InternalError(fmt::format("there is no piece {} of {} of {} elements", index, parts, size));
    const std::int64_t least = size / parts;
    const std::int64_t remainder = size % parts;
    const std::int64_t begin = least * index + std::min<std::int64_t>(index, remainder);
    return {begin, begin + least + (index < remainder ? 1 : 0)};
}

Shape Box::shape() const {
    Shape shape;
    for (const Range& range : ranges)
        shape.append(range.size());
    return shape;
}

Box local_box(const Shape& whole, const Placements& placements, const Mesh& mesh, const std::vector<int>& coordinate) {
    const auto axes = static_cast<std::size_t>(mesh.axis_count());
    if (placements.size() != axes || coordinate.size() != axes)
        throw InternalError(fmt::format("{} placements and {} coordinates on a mesh of {} axes", placements.size(),
                                        coordinate.size(), axes));
    Box box;
    for (int dim = 0; dim < whole.rank(); ++dim)
        box.ranges.push_back({0, whole[dim]});
    for (std::size_t i = 0; i < axes; ++i) {
        const MeshAxis& axis = mesh.axis(static_cast<int>(i));
        const Placement& placement = placements[i];
        if (placement.kind == Placement::Kind::shard) {
            if (placement.value < 0 || placement.value >= whole.rank())
                throw InternalError(
                    fmt::format("{} on axis '{}' of a tensor of shape {}", placement.text(), axis.name, whole.text()));
            Range& range = box.ranges[static_cast<std::size_t>(placement.value)];
            const Range inner = shard_range(range.size(), axis.size, coordinate[i]);
            range = {range.begin + inner.begin, range.begin + inner.end};
        } else if (placement.kind == Placement::Kind::at) {
            if (placement.value < 0 || placement.value >= axis.size)
                throw InternalError(fmt::format("{} on axis '{}' of size {}", placement.text(), axis.name, axis.size));
            if (placement.value != coordinate[i]) box.held = false;
        }
    }
    if (!box.held) std::fill(box.ranges.begin(), box.ranges.end(), Range{});
    return box;
}

} // namespace tessera
