// SPDX-License-Identifier: Apache-2.0
// average_pool, convolution, max_pool and transposed convolution: channels lie first there.
#include "core/formats/onnx/lowering.hpp"

#include "kernels/window.hpp"

namespace tessera {
namespace {

using Integers = std::vector<std::int64_t>;

OnnxAttributes attributes_of(const Window& window, bool dilated = true) {
    const WindowDim &h = window.height, &w = window.width;
    OnnxAttributes attributes{{"kernel_shape", Integers{h.size, w.size}},
                              {"strides", Integers{h.stride, w.stride}},
                              {"pads", Integers{h.before, w.before, h.after, w.after}}};
    if (dilated) attributes.emplace_back("dilations", Integers{h.dilation, w.dilation});
    return attributes;
}

// (K, R, S, C / G) as (K, C / G, R, S)
std::string filters(OnnxLowering& to) {
    const Shape w = to.shape(1);
    return to.weight(1, {w[0], w[3], w[1], w[2]}, {0, 3, 1, 2});
}

} // namespace

void lower_average_pool(OnnxLowering& to) {
    const Window window = to.attributes().window();
    if (window.height.dilation != 1 || window.width.dilation != 1)
        to.refuse("a mean over a window with gaps is not written in ONNX's operators");
    OnnxAttributes attributes = attributes_of(window, false);
    attributes.emplace_back("count_include_pad", std::int64_t{to.attributes().flag("count_padding")});
    to.out_image(0, to.add("AveragePool", {to.image(0)}, attributes));
}

void lower_convolution(OnnxLowering& to) {
    OnnxAttributes attributes = attributes_of(to.attributes().window());
    attributes.emplace_back("group", to.attributes().integer("groups"));
    std::vector<std::string> inputs{to.image(0), filters(to)};
    if (to.inputs() == 3) inputs.push_back(to.weight(2));
    to.out_image(0, to.add("Conv", inputs, attributes));
}

void lower_max_pool(OnnxLowering& to) {
    to.out_image(0, to.add("MaxPool", {to.image(0)}, attributes_of(to.attributes().window())));
}

void lower_transposed_convolution(OnnxLowering& to) {
    const Window window = to.attributes().window();
    OnnxAttributes attributes = attributes_of(window);
    attributes.emplace_back("group", to.attributes().integer("channels") / to.shape(1)[3]);
    const auto beyond = [](const WindowDim& dim, std::int64_t inputs, std::int64_t length) {
        return length - ((inputs - 1) * dim.stride - dim.before - dim.after + dim.extent());
    };
    attributes.emplace_back("output_padding",
                            Integers{beyond(window.height, to.shape(0)[1], to.attributes().integer("height")),
                                     beyond(window.width, to.shape(0)[2], to.attributes().integer("width"))});
    to.out_image(0, to.add("ConvTranspose", {to.image(0), filters(to)}, attributes));
}

} // namespace tessera
