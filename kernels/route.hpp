// SPDX-License-Identifier: Apache-2.0
// A mixture of experts' ways: which experts a token goes to and its place among their tokens (route), there (dispatch)
// and back (combine), and the gradients.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

#include <cstdint>
#include <string_view>

// B samples of T tokens, each of which chooses k of E experts; an expert takes K tokens of a sample. A sample is a
// group of its own (GShard: Lepikhin et al. 2020), so that what becomes of it does not depend on the rest of the batch;
// and places are given in the order of the tokens, so that what becomes of a token does not depend on those behind it.
//
// logits: (B, T, E) f32, bf16 or f16    gates: (B, T, k) f32    slots: (B, T, k) i32    load: (B, E) f32
// x: (B, T, C) and y: (E, B, K, C), both f32, bf16 or f16
// slots[b,t,j] = e K + place, or -1 - e where the expert had K tokens already: such a choice is dropped.
namespace tessera {

struct Routing {
    std::int64_t samples = 0;  // B
    std::int64_t tokens = 0;   // T
    std::int64_t experts = 0;  // E, at most most_experts
    std::int64_t choices = 0;  // k, at most E
    std::int64_t capacity = 0; // K
    float balance = 0, z = 0;  // coefficients of the losses

    std::int64_t rows() const { return samples * tokens; }
};

inline constexpr std::int64_t most_experts = 1024;

namespace kernels {

// Choice j is the expert with the j-th largest logit, of equals the one with the lower number. With p the softmax of a
// token's logits, gates[b,t,j] is p of the choice where k = 1 (Switch: Fedus et al. 2021), else its share of the
// chosen ones' p.
// load[b,e] = choices of e, dropped ones, too.
// losses: (3) f32, summed over the tokens, so that a mean is over them:
//   [0] = sum_b E / (k T) sum_e load[b,e] sum_t p[b,t,e]: T for a sample whose load is even (Switch, equation 4)
//   [1] = sum_bt log(sum_e exp(logits[b,t,e]))^2 (ST-MoE: Zoph et al. 2022, equation 5)
//   [2] = choices that were dropped
// loss: one f32 = balance losses[0] + z losses[1].
void route(CpuStream& stream, const Routing& routing, ConstView logits, View gates, View slots, View load, View loss,
           View losses, View workspace);
void route(CudaStream& stream, const Routing& routing, ConstView logits, View gates, View slots, View load, View loss,
           View losses, View workspace);
std::int64_t route_workspace_bytes(const Routing& routing); // on any stream

// The gradient of what gates (dgates, their shape) and loss (dloss: one f32, read when the kernel runs; null data:
// none) go into. dlogits: (B, T, E) of the logits' type; may be their memory. Loads and choices are constants to it.
void route_gradient(CpuStream& stream, const Routing& routing, ConstView logits, ConstView gates, ConstView slots,
                    ConstView load, ConstView dgates, ConstView dloss, View dlogits);
void route_gradient(CudaStream& stream, const Routing& routing, ConstView logits, ConstView gates, ConstView slots,
                    ConstView load, ConstView dgates, ConstView dloss, View dlogits);

// y[e,b,place,:] = x[b,t,:] where a choice of t has that slot, else 0. dx[b,t,:] = the sum of dy in its slots.
void dispatch_tokens(CpuStream& stream, const Routing& routing, ConstView x, ConstView slots, View y);
void dispatch_tokens(CudaStream& stream, const Routing& routing, ConstView x, ConstView slots, View y);
void dispatch_tokens_gradient(CpuStream& stream, const Routing& routing, ConstView dy, ConstView slots, View dx);
void dispatch_tokens_gradient(CudaStream& stream, const Routing& routing, ConstView dy, ConstView slots, View dx);

// x[b,t,:] = sum_j gates[b,t,j] y[slot of j,:]; a dropped choice adds nothing, and its gate has no gradient.
// dy: y's shape, 0 in slots without a token.
void combine_experts(CpuStream& stream, const Routing& routing, ConstView y, ConstView gates, ConstView slots, View x);
void combine_experts(CudaStream& stream, const Routing& routing, ConstView y, ConstView gates, ConstView slots, View x);
void combine_experts_gradient(CpuStream& stream, const Routing& routing, ConstView dx, ConstView y, ConstView gates,
                              ConstView slots, View dy, View dgates);
void combine_experts_gradient(CudaStream& stream, const Routing& routing, ConstView dx, ConstView y, ConstView gates,
                              ConstView slots, View dy, View dgates);

// What the workspace of route holds; for its kernels.
struct RouteMemory {
    float* mass;          // (B, E): the sums of p over a sample's tokens
    float* logs;          // (B, T): log of the sum of exp
    float* parts;         // (3, B): of the losses
    std::int32_t* chosen; // (B, T, k): experts
};
RouteMemory route_memory(const Routing& routing, const View& workspace); // InternalError when it is too small

// For the kernels: InternalError when a view has another size than the routing says. Null views are not checked.
struct RouteViews {
    ConstView logits{}, gates{}, slots{}, load{}, x{}, y{};
};
void check_route(std::string_view kernel, const Routing& routing, const RouteViews& views);

} // namespace kernels
} // namespace tessera
