// SPDX-License-Identifier: Apache-2.0
// activation, add, add_rows, concatenate, gate and scale: images stay as the operators before have left them.
#include "core/formats/onnx/lowering.hpp"

#include "kernels/error.hpp"

#include <cmath>
#include <fmt/format.h>
#include <numbers>

namespace tessera {
namespace {

bool all_images(const OnnxLowering& to) {
    bool images = true;
    for (std::size_t i = 0; i < to.inputs(); ++i)
        images = images && to.is_image(i);
    return images;
}

// y = f(inputs), whose dims may lie in any order that they have in common.
template <typename Make> void lower_elementwise(OnnxLowering& to, const Make& make) {
    const bool images = all_images(to);
    std::vector<std::string> inputs;
    for (std::size_t i = 0; i < to.inputs(); ++i)
        inputs.push_back(images ? to.image(i) : to.in(i));
    const std::string made = make(inputs);
    images ? to.out_image(0, made) : to.out(0, made);
}

// (1 + f) x / 2
std::string half_of(OnnxLowering& to, const std::string& f, const std::string& x) {
    const std::string both = to.add("Mul", {to.add("Add", {f, to.scalar(1)}), x});
    return to.add("Mul", {both, to.scalar(0.5)});
}

} // namespace

std::string onnx_activation(OnnxLowering& to, std::string_view function, const std::string& x) {
    if (function == "relu") return to.add("Relu", {x});
    if (function == "tanh") return to.add("Tanh", {x});
    if (function == "silu") return to.add("Mul", {x, to.add("Sigmoid", {x})});
    if (function == "gelu")
        return half_of(to, to.add("Erf", {to.add("Mul", {x, to.scalar(std::numbers::sqrt2 / 2)})}), x);
    if (function == "gelu_tanh") {
        const std::string cubic = to.add("Mul", {to.add("Mul", {x, x}), to.scalar(0.044715)});
        const std::string inner = to.add("Mul", {x, to.add("Add", {cubic, to.scalar(1)})});
        const double factor = std::sqrt(2 / std::numbers::pi);
        return half_of(to, to.add("Tanh", {to.add("Mul", {inner, to.scalar(factor)})}), x);
    }
    to.refuse(fmt::format("the activation '{}' is not written in ONNX's operators", function));
}

void lower_activation(OnnxLowering& to) {
    lower_elementwise(to, [&](const std::vector<std::string>& in) {
        return onnx_activation(to, to.attributes().text("function"), in[0]);
    });
}

void lower_add(OnnxLowering& to) {
    lower_elementwise(to, [&](const std::vector<std::string>& in) { return to.add("Add", in); });
}

void lower_concatenate(OnnxLowering& to) {
    const std::int64_t last = to.result(0).rank() - 1; // of an image its channels, which come behind the samples there
    lower_elementwise(to, [&](const std::vector<std::string>& in) {
        return to.add("Concat", in, {{"axis", all_images(to) ? std::int64_t{1} : last}});
    });
}

void lower_add_rows(OnnxLowering& to) {
    const Shape row = to.shape(1);
    if (to.is_image(0) && row.rank() == 1)
        to.out_image(0, to.add("Add", {to.image(0), to.weight(1, {row[0], 1, 1})}));
    else
        to.out(0, to.add("Add", {to.in(0), to.weight(1)}));
}

void lower_gate(OnnxLowering& to) {
    lower_elementwise(to, [&](const std::vector<std::string>& in) {
        return to.add("Mul", {onnx_activation(to, to.attributes().text("function"), in[0]), in[1]});
    });
}

void lower_scale(OnnxLowering& to) {
    lower_elementwise(to, [&](const std::vector<std::string>& in) {
        return to.add("Mul", {in[0], to.scalar(to.attributes().number("factor"))});
    });
}

} // namespace tessera
