// SPDX-License-Identifier: Apache-2.0
// Sums of squares of tensors over fixed blocks of each, in a fixed order: the same bits however the work is spread.
#pragma once

#include "core/graph/graph.hpp"

namespace tessera {

// Appends what makes of values, whose whole they are parts of on each rank, the sum of the squares of each: (tensors)
// f32.
ValueId append_tensor_squares(Graph& graph, const std::string& name, const std::vector<ValueId>& values);
// The sum over all of them, scalar f32: first of each tensor, then of those.
ValueId append_square_sum(Graph& graph, const std::string& name, const std::vector<ValueId>& values);

} // namespace tessera
