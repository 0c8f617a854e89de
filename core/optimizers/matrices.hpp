// SPDX-License-Identifier: Apache-2.0
// A parameter as matrices of outputs by inputs, for optimizers that see more than single numbers.
#pragma once

#include "core/graph/graph.hpp"

#include <algorithm>

namespace tessera {

struct Matrices {
    std::int64_t count, rows, columns;

    std::int64_t elements() const { return rows * columns; }
    std::int64_t smaller() const { return std::min(rows, columns); }
};

// Experts have a matrix each; what reads heads, and filters, has its outputs in dim 0; a vector is a column.
Matrices matrices_of(const Value& parameter);

// Calls visit(matrix, first element in it, first in the rank's memory, count) for the runs of elements that this rank
// holds of input `weight`, none of which crosses the end of a matrix.
template <class Visit>
void for_each_held(const Matrices& of, const Operands& a, std::size_t weight, const Visit& visit) {
    const auto cut = [&](std::int64_t at, std::int64_t held, std::int64_t count) {
        while (count > 0) {
            const std::int64_t first = at % of.elements(), some = std::min(count, of.elements() - first);
            visit(at / of.elements(), first, held, some);
            at += some, held += some, count -= some;
        }
    };
    if (a.locality == nullptr) return cut(0, 0, a.inputs[weight].count());
    const Range run = a.locality->runs[weight];
    for_each_run(a.locality->wholes[weight], a.locality->inputs[weight],
                 [&](std::int64_t at, std::int64_t in_box, std::int64_t count) {
                     const std::int64_t begin = std::max(in_box, run.begin), end = std::min(in_box + count, run.end);
                     if (begin < end) cut(at + begin - in_box, begin - run.begin, end - begin);
                 });
}

} // namespace tessera
