// SPDX-License-Identifier: Apache-2.0
// batch_norm_inference, layer_norm, residual_norm and rms_norm.
#include "core/formats/onnx/lowering.hpp"

namespace tessera {
namespace {

// Of x, which is a value of the file, with the node's inputs from `scale` on.
std::string normed(OnnxLowering& to, const std::string& x, bool rms, std::size_t scale) {
    const double epsilon = to.attributes().number("epsilon");
    if (!rms) {
        std::vector<std::string> inputs{x, to.weight(scale)};
        if (to.inputs() > scale + 1) inputs.push_back(to.weight(scale + 1));
        return to.add("LayerNormalization", inputs, {{"axis", std::int64_t{-1}}, {"epsilon", epsilon}});
    }
    const std::string squares =
        to.add("ReduceMean", {to.add("Mul", {x, x})}, {{"axes", std::vector<std::int64_t>{-1}}});
    const std::string root = to.add("Sqrt", {to.add("Add", {squares, to.scalar(epsilon)})});
    return to.add("Mul", {to.add("Div", {x, root}), to.weight(scale)});
}

} // namespace

void lower_batch_norm(OnnxLowering& to) { // x, mean, variance, scale, bias
    const bool image = to.shape(0).rank() == 4;
    if (!image && to.shape(0).rank() != 2) {
        const std::string centred = to.add("Sub", {to.in(0), to.weight(1)});
        const std::string variance = to.add("Add", {to.weight(2), to.scalar(to.attributes().number("epsilon"))});
        const std::string scaled = to.add("Div", {centred, to.add("Sqrt", {variance})});
        return to.out(0, to.add("Add", {to.add("Mul", {scaled, to.weight(3)}), to.weight(4)}));
    }
    const std::string made = to.add(
        "BatchNormalization", {image ? to.image(0) : to.in(0), to.weight(3), to.weight(4), to.weight(1), to.weight(2)},
        {{"epsilon", to.attributes().number("epsilon")}});
    image ? to.out_image(0, made) : to.out(0, made);
}

void lower_layer_norm(OnnxLowering& to) { to.out(0, normed(to, to.in(0), false, 1)); }

void lower_residual_norm(OnnxLowering& to) {
    const std::string sum = to.add("Add", {to.in(0), to.in(1)});
    to.out(0, sum);
    to.out(1, normed(to, sum, to.attributes().flag("rms"), 2));
}

void lower_rms_norm(OnnxLowering& to) { to.out(0, normed(to, to.in(0), true, 1)); }

} // namespace tessera
