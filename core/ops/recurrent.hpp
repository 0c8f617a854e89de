// SPDX-License-Identifier: Apache-2.0
// What lstm and gru have in common: the checks of their inputs and the gradient of their weight. Private to core/ops.
#pragma once

#include "core/graph/graph.hpp"
#include "kernels/recurrent.hpp"

namespace tessera {

// The inputs of a recurrent op: x, w[, bias][, states]. A state is (B, D H).
struct RecurrentInputs {
    bool bias = false;
    bool states = false;

    std::size_t first_state() const { return bias ? 3 : 2; }
};

// Of x (B, T, D, G, H).
inline RecurrentSizes recurrent_sizes(const Shape& x) { return {x[0], x[1], x[2], x[4]}; }

// Throws ConfigError, with what is expected, unless the inputs are those of an op of so many gates and states.
void expect_recurrent(std::span<const TensorType> in, const RecurrentInputs& which, std::int64_t gates,
                      std::size_t states);

// dw[d] = dq[d]^T h', with what the cells were given of the step before.     dq: (B, T, D, G, H)   y: (B, T, D H)
// h0: (B, D H) f32, or no_value: zeros     dw: (D, G, H, H) f32
ValueId recurrent_weight_gradient(Graph& graph, std::string name, ValueId dq, ValueId y, ValueId h0);

// Inputs and outputs whose dim 0 counts rows, but for some inputs that all rows share.
PlacementRule rule_of_rows(std::size_t inputs, std::span<const std::size_t> shared, std::size_t outputs);

// Bytes that the cells' kernels want to work in.
std::int64_t recurrent_workspace(const Stream& stream, const RecurrentSizes& sizes, std::int64_t gates, DType dtype);

// What the recurrent products of all steps take.
double recurrent_flops(const Shape& x);

} // namespace tessera
