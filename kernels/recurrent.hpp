// SPDX-License-Identifier: Apache-2.0
// LSTM (Hochreiter and Schmidhuber 1997; Gers et al. 2000) and GRU (Cho et al. 2014) over the steps of a sequence, and
// their gradients through time. What the inputs bring to the gates, x, is one product for all steps and comes from
// outside; here are the product with the step before and the cells, in PyTorch's order of gates and by its formulas.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>

namespace tessera {

// B rows, each a sequence of T steps; D directions: the second goes from the last step to the first; H hidden units.
struct RecurrentSizes {
    std::int64_t rows = 0, steps = 0, directions = 1, hidden = 0; // B, T, D, H

    std::int64_t state() const { return rows * directions * hidden; } // elements of h or c of one step
};

// x, dx: (B, T, D, G, H), all f32, bf16 or f16 (T below), G = 4 for LSTM, 3 for GRU     y, dy: (B, T, D, H) T
// w: (D, G, H, H) T, [.., unit of the gate, unit of the step before]     bias: (D, G, H) f32
// gates: (B, T, D, 4, H) T and cells: (B, T, D, H) f32 are kept for the gradient
// h0, c0, last_h, last_c: (B, D, H) f32, before the first step of a direction and after its last
// bias, h0 and c0 may be null (zeros), last_h and last_c, too (not wanted). h is rounded to T wherever it is used; c is
// f32. Sums are fp32, each in an order that the sizes fix. Views may have any shape with the right count, else
// InternalError. The workspace holds recurrent_workspace_bytes bytes, of any shape and type; no views overlap.
namespace kernels {

// With z = x + w h' + bias, h' and c' being of the step before:
// i = sigmoid(z_0)   f = sigmoid(z_1)   g = tanh(z_2)   o = sigmoid(z_3)   c = f c' + i g   y = h = o tanh(c)
// gates: i, f, g, o   cells: c
struct LstmState {
    ConstView h0{}, c0{};
    View last_h{}, last_c{};
};
void lstm(CpuStream& stream, const RecurrentSizes& sizes, ConstView x, ConstView w, ConstView bias,
          const LstmState& state, View y, View gates, View cells, View workspace);
void lstm(CudaStream& stream, const RecurrentSizes& sizes, ConstView x, ConstView w, ConstView bias,
          const LstmState& state, View y, View gates, View cells, View workspace);

// dx of what depends on y; h0 and c0 get no gradient.
void lstm_gradient(CpuStream& stream, const RecurrentSizes& sizes, ConstView w, ConstView gates, ConstView cells,
                   ConstView c0, ConstView dy, View dx, View workspace);
void lstm_gradient(CudaStream& stream, const RecurrentSizes& sizes, ConstView w, ConstView gates, ConstView cells,
                   ConstView c0, ConstView dy, View dx, View workspace);

// With q = w h' + bias:
// r = sigmoid(x_0 + q_0)   z = sigmoid(x_1 + q_1)   n = tanh(x_2 + r q_2)   y = h = (1 - z) n + z h'
// gates: r, z, n, q_2
void gru(CpuStream& stream, const RecurrentSizes& sizes, ConstView x, ConstView w, ConstView bias, ConstView h0, View y,
         View gates, View last_h, View workspace);
void gru(CudaStream& stream, const RecurrentSizes& sizes, ConstView x, ConstView w, ConstView bias, ConstView h0,
         View y, View gates, View last_h, View workspace);

// dx, and dq, of x's shape and type.
void gru_gradient(CpuStream& stream, const RecurrentSizes& sizes, ConstView w, ConstView gates, ConstView y,
                  ConstView h0, ConstView dy, View dx, View dq, View workspace);
void gru_gradient(CudaStream& stream, const RecurrentSizes& sizes, ConstView w, ConstView gates, ConstView y,
                  ConstView h0, ConstView dy, View dx, View dq, View workspace);

// Of any of the four, for G gates whose type is `dtype`. Does not depend on the number of threads.
std::int64_t recurrent_workspace_bytes(const CpuStream& stream, const RecurrentSizes& sizes, std::int64_t gates,
                                       DType dtype);
std::int64_t recurrent_workspace_bytes(const CudaStream& stream, const RecurrentSizes& sizes, std::int64_t gates,
                                       DType dtype);

} // namespace kernels
} // namespace tessera
