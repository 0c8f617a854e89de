// SPDX-License-Identifier: Apache-2.0
// embedding, flatten, linear and place_rows.
#include "core/formats/onnx/lowering.hpp"

#include <algorithm>

namespace tessera {

void lower_embedding(OnnxLowering& to) { to.out(0, to.add("Gather", {to.weight(1), to.in(0)})); }

void lower_flatten(OnnxLowering& to) { to.out(0, to.reshaped(to.in(0), {0, to.result(0)[1]})); }

// y = x w^T + bias, where weights are products' right factors: (inputs, outputs).
void lower_linear(OnnxLowering& to) {
    const Shape x = to.shape(0), w = to.shape(1);
    const auto contracted = static_cast<int>(to.attributes().integer("contracted"));
    const int outputs = w.rank() - contracted, leading = x.rank() - contracted;
    const std::int64_t wide = w.count(0, outputs), deep = w.count(outputs, w.rank());
    std::vector<int> order;
    for (int dim = 0; dim < w.rank(); ++dim)
        order.push_back((outputs + dim) % w.rank());
    std::vector<std::int64_t> dims(static_cast<std::size_t>(leading), 0);
    std::string in = to.in(0);
    if (contracted > 1) {
        dims.push_back(deep);
        in = to.reshaped(in, dims);
        dims.pop_back();
    }
    std::string y = to.add("MatMul", {in, to.weight(1, {deep, wide}, order)});
    if (to.inputs() == 3) y = to.add("Add", {y, to.weight(2, {wide})});
    if (outputs > 1) {
        for (int dim = 0; dim < outputs; ++dim)
            dims.push_back(w[dim]);
        y = to.reshaped(y, dims);
    }
    to.out(0, y);
}

// Rows that follow one another, in places that do: what else slots say is not written here.
void lower_place_rows(OnnxLowering& to) {
    const ValueId slots_of = to.node().inputs[1];
    if (!to.writer().is_step_input(slots_of)) to.refuse("places that the data decide are not written here");
    const std::vector<std::int64_t> slots = to.writer().numbers_of(slots_of);
    const auto rows = static_cast<std::int64_t>(slots.size());
    const auto is_placed = [](std::int64_t slot) { return slot >= 0; };
    const auto begin = std::ranges::find_if(slots, is_placed);
    const std::int64_t first = begin - slots.begin(), count = std::ranges::count_if(slots, is_placed);
    for (std::int64_t i = 0; i < count; ++i)
        if (first + i >= rows || slots[static_cast<std::size_t>(first + i)] != *begin + i)
            to.refuse("rows that do not follow one another are not written here");
    const Shape x = to.shape(0);
    const std::int64_t places = to.attributes().integer("places");
    std::string y = x.rank() == 3 ? to.in(0) : to.reshaped(to.in(0), {0, rows, x[-1]});
    OnnxGraph& graph = to.graph();
    if (count < rows)
        y = to.add("Slice", {y, graph.integers({first}), graph.integers({first + count}), graph.integers({1})});
    if (count < places)
        y = to.add("Pad", {y, graph.integers({0, count == 0 ? 0 : *begin, 0, 0,
                                              count == 0 ? places : places - *begin - count, 0})});
    to.out(0, y);
}

} // namespace tessera
