// SPDX-License-Identifier: Apache-2.0
// gru and lstm, each with the product before it: ONNX's operators hold both, with gates in an order of their own.
#include "core/formats/onnx/lowering.hpp"

#include <array>
#include <fmt/format.h>
#include <span>

namespace tessera {
namespace {

// What the gates of `order` have of a parameter (D, G, H, …), direction by direction.
void append_gates(const Value& parameter, std::int64_t direction, std::span<const std::int64_t> order,
                  std::vector<OnnxPiece>& pieces) {
    const Shape& whole = parameter.type.shape;
    for (const std::int64_t gate : order) {
        std::vector<std::int64_t> start(static_cast<std::size_t>(whole.rank()), 0);
        Shape box = whole;
        start[0] = direction;
        start[1] = gate;
        box.set(0, 1);
        box.set(1, 1);
        pieces.push_back({parameter.name, whole, std::move(start), box, {}});
    }
}

void lower_cells(OnnxLowering& to, const std::string& op, std::span<const std::int64_t> order,
                 OnnxAttributes attributes) {
    const Node* product = product_before(to.writer().from(), to.node());
    if (product == nullptr) to.refuse("what comes into its gates is no product of one weight");
    if (to.attributes().flag("states")) to.refuse("states that go on from step to step are not written here");
    const Shape x = to.shape(0); // (B, T, D, G, H)
    const std::int64_t directions = x[2], hidden = x[4], gates = x[3] * hidden;
    const Value &of_input = to.writer().value(product->inputs[1]), &of_state = to.writer().value(to.node().inputs[1]);
    const bool bias = product->inputs.size() == 3;
    if (bias != to.attributes().flag("bias")) to.refuse("one of its two biases is missing");

    OnnxTensor w{to.node().name + ".W", {directions, gates, of_input.type.shape[-1]}};
    OnnxTensor r{to.node().name + ".R", {directions, gates, hidden}};
    OnnxTensor b{to.node().name + ".B", {directions, 2 * gates}};
    for (std::int64_t direction = 0; direction < directions; ++direction) {
        append_gates(of_input, direction, order, w.pieces);
        append_gates(of_state, direction, order, r.pieces);
        if (!bias) continue;
        append_gates(to.writer().value(product->inputs[2]), direction, order, b.pieces);
        append_gates(to.writer().value(to.node().inputs[2]), direction, order, b.pieces);
    }
    std::vector<std::string> inputs{to.transposed(to.writer().name_of(product->inputs[0]), {1, 0, 2}), w.name, r.name};
    if (bias) inputs.push_back(b.name);
    to.graph().add_tensor(std::move(w));
    to.graph().add_tensor(std::move(r));
    if (bias) to.graph().add_tensor(std::move(b));
    attributes.emplace_back("hidden_size", hidden);
    attributes.emplace_back("direction", std::string(directions == 2 ? "bidirectional" : "forward"));
    const std::string y = to.add(op, inputs, attributes); // (T, D, B, H)
    to.out(0, to.reshaped(to.transposed(y, {2, 0, 1, 3}), {0, 0, directions * hidden}));
}

} // namespace

void lower_gru(OnnxLowering& to) {
    constexpr std::array<std::int64_t, 3> order{1, 0, 2}; // theirs: z, r, n; ours: r, z, n
    lower_cells(to, "GRU", order, {{"linear_before_reset", std::int64_t{1}}});
}

void lower_lstm(OnnxLowering& to) {
    constexpr std::array<std::int64_t, 4> order{0, 3, 1, 2}; // theirs: i, o, f, g; ours: i, f, g, o
    lower_cells(to, "LSTM", order, {});
}

} // namespace tessera
