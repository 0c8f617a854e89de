// SPDX-License-Identifier: Apache-2.0
// Parts of tensors, element by element.
#include "core/run/held_part.hpp"

#include "kernels/error.hpp"
#include "kernels/float8.hpp"
#include "parallel/layout/zigzag.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace tessera {
namespace {

HeldPart part_of(const Program& program, ValueId id, Range run) {
    const PlannedValue& value = program.plan.value(id);
    HeldPart part{program.plan.graph.value(id).type.shape, {}};
    if (value.box.held && value.offset >= 0) part.boxes = boxes_of_run(value.box, run);
    for (std::size_t axis = 0; axis < value.placements.size(); ++axis)
        if (program.layout.strategies[axis]->zigzag() && value.placements[axis].kind == Placement::Kind::shard)
            part.zigzag = {value.placements[axis].value, program.layout.mesh.axis(static_cast<int>(axis)).size};
    return part;
}

// A run of elements in the order of the places of a zig-zag dim, as runs of the tensor.
template <class Visit> void for_each_true_run(const HeldPart& part, std::int64_t at, std::int64_t in_part,
                                              std::int64_t count, const Visit& visit) {
    const std::int64_t size = part.whole[part.zigzag.dim];
    const std::int64_t inner = part.whole.count(part.zigzag.dim + 1, part.whole.rank());
    while (count > 0) {
        const std::int64_t place = at / inner % size, rest = at % inner;
        const ZigzagRun run = zigzag_runs({place, size}, size, part.zigzag.ranks).front();
        const std::int64_t together = std::min(count, run.places.size() * inner - rest);
        visit(at + (run.first - place) * inner, in_part, together);
        at += together;
        in_part += together;
        count -= together;
    }
}

// Calls visit(first element in the whole, first in the memory, count).
template <class Visit> void for_each_held_run(const HeldPart& part, const Visit& visit) {
    std::int64_t first = 0;
    for (const Box& box : part.boxes) {
        for_each_run(part.whole, box, [&](std::int64_t in_whole, std::int64_t in_box, std::int64_t count) {
            if (part.zigzag.dim < 0)
                visit(in_whole, first + in_box, count);
            else
                for_each_true_run(part, in_whole, first + in_box, count, visit);
        });
        first += box.count();
    }
}

template <class Visit> auto with_type(DType dtype, const Visit& visit) {
    switch (dtype) {
    case DType::f32:
        return visit(float{});
    case DType::bf16:
        return visit(BFloat16{});
    case DType::f16:
        return visit(Float16{});
    case DType::i32:
        return visit(std::int32_t{});
    case DType::f8e4m3:
        return visit(Float8E4M3{});
    case DType::f8e5m2:
        return visit(Float8E5M2{});
    }
    throw InternalError("a type without elements");
}

template <class T> double number_of(T element) {
    if constexpr (std::is_same_v<T, std::int32_t>)
        return element;
    else
        return static_cast<float>(element);
}

template <class T> double largest_of(const T* elements, std::int64_t count) {
    double most = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        const double magnitude = std::abs(number_of(elements[i]));
        if (std::isfinite(magnitude)) most = std::max(most, magnitude);
    }
    return most;
}

template <class T> double largest_difference(const T* one, const T* other, std::int64_t count) {
    double most = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        const double a = number_of(one[i]), b = number_of(other[i]);
        if (a == b || (std::isnan(a) && std::isnan(b))) continue;
        const double difference = std::abs(a - b);
        if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
        most = std::max(most, difference);
    }
    return most;
}

} // namespace

// Where an axis has Flat the memory holds a run; what is summed whole and updated in part is whole here.
HeldPart part_in_micro_batch(const Program& program, ValueId id) {
    const PlannedValue& value = program.plan.value(id);
    const bool whole = value.local.shape.count() == value.box.count();
    return part_of(program, id, whole ? Range{0, value.box.count()} : value.run);
}

HeldPart part_at_rest(const Program& program, ValueId id) { return part_of(program, id, program.plan.value(id).run); }

View view_at_rest(const Executor& executor, const Plan& plan, ValueId id) {
    const View view = executor.view(id);
    const TensorType seen = plan.seen(id, Phase::update);
    if (seen == plan.value(id).local) return view;
    const std::int64_t skipped = plan.value(id).run.begin * bytes_of(view.dtype);
    return {static_cast<std::byte*>(view.memory()) + skipped, seen.shape, seen.dtype};
}

double distance(const HeldPart& part, ConstView held, ConstView whole) {
    return with_type(held.dtype, [&]<class T>(T) {
        const T *mine = held.as<T>(), *all = whole.as<T>();
        double most = 0;
        for_each_held_run(part, [&](std::int64_t in_whole, std::int64_t in_part, std::int64_t count) {
            if (std::memcmp(mine + in_part, all + in_whole, static_cast<std::size_t>(count) * sizeof(T)) != 0)
                most = std::max(most, largest_difference(mine + in_part, all + in_whole, count));
        });
        return most == 0 ? 0 : most / largest_of(all, whole.count());
    });
}

void take_part(const HeldPart& part, ConstView whole, View held) {
    const std::int64_t size = bytes_of(held.dtype);
    auto* to = static_cast<std::byte*>(held.memory());
    const auto* from = static_cast<const std::byte*>(whole.data);
    for_each_held_run(part, [&](std::int64_t in_whole, std::int64_t in_part, std::int64_t count) {
        std::memcpy(to + in_part * size, from + in_whole * size, static_cast<std::size_t>(count * size));
    });
}

} // namespace tessera
