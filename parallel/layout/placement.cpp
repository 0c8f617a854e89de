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
    case Kind::flat:
        return "Flat";
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

Range shard_range_in_units(std::int64_t size, std::int64_t unit, int parts, int index) {
    const Range units = shard_range((size + unit - 1) / unit, parts, index);
    return {std::min(size, units.begin * unit), std::min(size, units.end * unit)};
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

Range run_of(const Box& box, const Placements& placements, const Mesh& mesh, const std::vector<int>& coordinate) {
    Range run{0, box.count()};
    bool found = false;
    for (std::size_t axis = 0; axis < placements.size(); ++axis) {
        if (placements[axis].kind != Placement::Kind::flat) continue;
        if (found) throw InternalError("two axes of a mesh cut one tensor into runs");
        run = shard_range_in_units(run.size(), flat_block, mesh.axis(static_cast<int>(axis)).size, coordinate[axis]);
        found = true;
    }
    return run;
}

// The rest of a row, whole rows, and the beginning of a row, each cut further along the dims within.
std::vector<Box> boxes_of_run(const Box& box, Range run) {
    if (run.size() <= 0) return {};
    const Shape shape = box.shape();
    if (run == Range{0, shape.count()}) return {box};
    const std::int64_t row = shape.count(1, shape.rank());
    const auto inside = [&](std::int64_t index, Range part) { // a part of one row
        Box one = box;
        one.ranges.erase(one.ranges.begin());
        std::vector<Box> boxes = boxes_of_run(one, part);
        const std::int64_t place = box.ranges[0].begin + index;
        for (Box& found : boxes)
            found.ranges.insert(found.ranges.begin(), {place, place + 1});
        return boxes;
    };
    std::vector<Box> boxes;
    const auto add = [&](std::vector<Box> more) { boxes.insert(boxes.end(), more.begin(), more.end()); };
    std::int64_t first = run.begin / row, last = run.end / row; // rows [first, last) are whole, but perhaps the first
    if (first == last) return inside(first, {run.begin - first * row, run.end - first * row});
    if (run.begin != first * row) {
        add(inside(first, {run.begin - first * row, row}));
        ++first;
    }
    if (first < last) {
        Box rows = box;
        rows.ranges[0] = {box.ranges[0].begin + first, box.ranges[0].begin + last};
        boxes.push_back(rows);
    }
    if (run.end != last * row) add(inside(last, {0, run.end - last * row}));
    return boxes;
}

} // namespace tessera
