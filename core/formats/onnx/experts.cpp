// SPDX-License-Identifier: Apache-2.0
// combine, dispatch, expert_linear and route: a mixture of experts by products with matrices of ones and zeros, which
// say which token has which slot (GShard: Lepikhin et al. 2020, algorithm 1).
#include "core/formats/onnx/lowering.hpp"

#include <numeric>

namespace tessera {
namespace {

constexpr std::int64_t f32 = 1; // TensorProto.FLOAT

// (…) i64 -> (…, count) f32: 1 where the number is that of the last dim
std::string one_hot(OnnxLowering& to, const std::string& numbers, std::int64_t rank, std::int64_t count) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(count));
    std::iota(all.begin(), all.end(), 0);
    const std::string columns = to.add("Unsqueeze", {numbers, to.graph().integers({rank})});
    return to.add("Cast", {to.add("Equal", {columns, to.graph().integers(all)})}, {{"to", f32}});
}

std::string summed(OnnxLowering& to, const std::string& x, std::int64_t axis) { // over a dim, which goes
    return to.add("ReduceSum", {x, to.graph().integers({axis})}, {{"keepdims", std::int64_t{0}}});
}

} // namespace

void lower_combine(OnnxLowering& to) { // y (E, B, K, C), gates, slots (B, T, k)
    const Shape y = to.shape(0);
    const std::int64_t all = y[0] * y[2];
    const std::string gates = to.add("Unsqueeze", {to.in(1), to.graph().integers({3})});
    const std::string shares = summed(to, to.add("Mul", {one_hot(to, to.in(2), 3, all), gates}), 2); // (B, T, E K)
    const std::string rows = to.reshaped(to.transposed(to.in(0), {1, 0, 2, 3}), {0, all, y[3]});
    to.out(0, to.add("MatMul", {shares, rows}));
}

void lower_dispatch(OnnxLowering& to) { // x (B, T, C), slots (B, T, k)
    const Shape& y = to.result(0);      // (E, B, K, C)
    const std::string places = summed(to, one_hot(to, to.in(1), 3, y[0] * y[2]), 2);
    const std::string rows = to.add("MatMul", {to.transposed(places, {0, 2, 1}), to.in(0)}); // (B, E K, C)
    to.out(0, to.transposed(to.reshaped(rows, {0, y[0], y[2], y[3]}), {1, 0, 2, 3}));
}

void lower_expert_linear(OnnxLowering& to) { // x (E, B, K, C), w (E, H, C), bias (E, H)
    const Shape w = to.shape(1);
    std::string y = to.add("MatMul", {to.in(0), to.weight(1, {w[0], 1, w[2], w[1]}, {0, 2, 1})});
    if (to.inputs() == 3) y = to.add("Add", {y, to.weight(2, {w[0], 1, 1, w[1]})});
    to.out(0, y);
}

// A slot counts the choices of its expert by the tokens before; what finds no room has a number below 0.
void lower_route(OnnxLowering& to) {
    const Shape logits = to.shape(0); // (B, T, E)
    const std::int64_t experts = logits[2], choices = to.result(0)[2], capacity = to.attributes().integer("capacity");
    const auto top = to.add_several("TopK", {to.in(0), to.graph().integers({choices})}, {}, 2);
    const auto softmax = [&](const std::string& x) { return to.add("Softmax", {x}, {{"axis", std::int64_t{-1}}}); };
    to.out(0, choices > 1 ? softmax(top[0])
                          : to.add("ReduceMax", {softmax(to.in(0))}, {{"axes", std::vector<std::int64_t>{-1}}}));
    const std::string chosen = to.reshaped(top[1], {0, logits[1] * choices}); // (B, T k)
    const std::string counts = one_hot(to, chosen, 2, experts);
    const std::string before = to.add("CumSum", {counts, to.graph().integer(1)}, {{"exclusive", std::int64_t{1}}});
    const std::string place =
        to.add("Cast", {summed(to, to.add("Mul", {before, counts}), 2)}, {{"to", std::int64_t{7}}});
    const std::string slot = to.add("Add", {to.add("Mul", {chosen, to.graph().integer(capacity)}), place});
    const std::string has_room = to.add("Less", {place, to.graph().integer(capacity)});
    const std::string slots = to.add("Where", {has_room, slot, to.graph().integer(-1)});
    to.out(1, to.reshaped(slots, {0, logits[1], choices}));
}

} // namespace tessera
