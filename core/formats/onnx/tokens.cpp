// SPDX-License-Identifier: Apache-2.0
// leave_out, shift_tokens, token_segments and token_types: whole numbers, i64 there.
#include "core/formats/onnx/lowering.hpp"

namespace tessera {
namespace {

constexpr std::int64_t i64 = 7; // TensorProto.INT64

} // namespace

void lower_leave_out(OnnxLowering& to) {
    const std::string left_out = to.graph().integer(to.attributes().integer("left_out"));
    const std::string in = to.in(0);
    to.out(0, to.add("Where", {to.add("Equal", {in, left_out}), to.graph().integer(-1), in}));
}

void lower_shift_tokens(OnnxLowering& to) {
    OnnxGraph& graph = to.graph();
    const std::string first = graph.integer(to.attributes().integer("first"));
    const std::string but_last =
        to.add("Slice", {to.in(0), graph.integers({0}), graph.integers({-1}), graph.integers({1})});
    const std::string shifted = to.add("Pad", {but_last, graph.integers({0, 1, 0, 0}), first});
    to.out(0, to.add("Where", {to.add("Less", {shifted, graph.integer(0)}), first, shifted}));
}

void lower_token_segments(OnnxLowering& to) {
    const std::string padding = to.graph().integer(to.attributes().integer("padding"));
    const std::string is_text = to.add("Not", {to.add("Equal", {to.in(0), padding})});
    to.out(0, to.add("Cast", {is_text}, {{"to", i64}}));
}

void lower_token_types(OnnxLowering& to) {
    OnnxGraph& graph = to.graph();
    const std::string separator = graph.integer(to.attributes().integer("separator"));
    const std::string ends = to.add("Cast", {to.add("Equal", {to.in(0), separator})}, {{"to", i64}});
    const std::string before = to.add("CumSum", {ends, graph.integer(1)}, {{"exclusive", std::int64_t{1}}});
    to.out(0, to.add("Min", {before, graph.integer(to.attributes().integer("types") - 1)}));
}

} // namespace tessera
