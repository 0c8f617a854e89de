// SPDX-License-Identifier: Apache-2.0
// The cross entropy where every rank of an axis holds some columns of the logits. Private to core/ops.
#pragma once

#include "core/graph/op.hpp"

namespace tessera {

// logits, targets[, scale] -> what a rank's columns add to each row, (S, 3, N...) cut along dim 0 over S ranks; and
// logits, targets[, scale], the same of all ranks -> [dlogits, ]loss. With a scale the gradient is an output, too.
// Columns behind the `classes` are padding.
Op::Halves cross_entropy_halves(int ranks, std::int64_t classes, bool with_gradient);

// Whether the classes of the logits, input 0, are cut, and nothing else is.
bool classes_are_cut(const Shape& logits, std::span<const Placement> inputs);

} // namespace tessera
