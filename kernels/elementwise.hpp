// SPDX-License-Identifier: Apache-2.0
// Functions of each element alone: activations and their gradients, sums, products, and a row added to every row.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <string_view>

namespace tessera {

enum class Activation {
    gelu,      // x * (1 + erf(x / sqrt(2))) / 2
    gelu_tanh, // x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2, GPT-2's
    relu,
    silu, // x / (1 + exp(-x))
    tanh,
};

// Throws ConfigError for an unknown name, with the nearest known one.
Activation activation_named(std::string_view name);
std::string_view name_of(Activation activation);

} // namespace tessera

// All views of a call have the same count and one type, f32, bf16 or f16, else InternalError; the arithmetic is fp32.
// A result may be the memory of any input of the same type.
namespace tessera::kernels {

void activation(CpuStream& stream, Activation kind, ConstView x, View y);
void activation(CudaStream& stream, Activation kind, ConstView x, View y);
void activation_gradient(CpuStream& stream, Activation kind, ConstView x, ConstView dy, View dx);
void activation_gradient(CudaStream& stream, Activation kind, ConstView x, ConstView dy, View dx);

// y = f(gate) * x, and of it dgate = dy * x * f'(gate), dx = dy * f(gate), which may be dy's memory.
void gate(CpuStream& stream, Activation kind, ConstView gate, ConstView x, View y);
void gate(CudaStream& stream, Activation kind, ConstView gate, ConstView x, View y);
void gate_gradient(CpuStream& stream, Activation kind, ConstView gate, ConstView x, ConstView dy, View dgate, View dx);
void gate_gradient(CudaStream& stream, Activation kind, ConstView gate, ConstView x, ConstView dy, View dgate, View dx);

void add(CpuStream& stream, ConstView a, ConstView b, View y);
void add(CudaStream& stream, ConstView a, ConstView b, View y);
void multiply(CpuStream& stream, ConstView a, ConstView b, View y);
void multiply(CudaStream& stream, ConstView a, ConstView b, View y);
void scale(CpuStream& stream, ConstView x, float factor, View y);
void scale(CudaStream& stream, ConstView x, float factor, View y);

// y[i] = x[i] + row[i % row.count()]: a bias (C) on x: (R, C), or positions (T, C) on x: (B, T, C).
// The count of x is a multiple of the row's; the row may be f32, bf16 or f16, whatever x is.
void add_rows(CpuStream& stream, ConstView x, ConstView row, View y);
void add_rows(CudaStream& stream, ConstView x, ConstView row, View y);

} // namespace tessera::kernels
