// SPDX-License-Identifier: Apache-2.0
// convolution: of images with filters, in groups, and its two gradients; that of the bias is sum_rows. The gradient
// for the image is an op of its own, too: transposed_convolution.
#include "kernels/convolution.hpp"
#include "core/graph/attributes.hpp"
#include "core/ops/halo.hpp"
#include "core/ops/images.hpp"
#include "core/ops/ops.hpp"

#include <algorithm>

namespace tessera {
namespace {

// Of a rank's parts, too: cut along both, channels and filters leave whole groups on a rank.
Convolution shape_of(const Shape& x, const Shape& w, const Window& window) {
    return {.batch = x[0],
            .height = x[1],
            .width = x[2],
            .channels = x[3],
            .filters = w[0],
            .groups = w[3] == 0 ? 1 : std::max<std::int64_t>(1, x[3] / w[3]),
            .window = window};
}

// Of as many outputs as y, or its gradient, has; w: (K, R, S, C / G).
double flops_of(const Shape& y, const Shape& w) {
    return 2.0 * static_cast<double>(y.count()) * static_cast<double>(w.count(1, 4));
}

using Reads = WindowedOp::Reads;

WindowedOp windowed(OpPointer op, const Window& window, const Shape& image, std::vector<Reads> inputs) {
    return {.op = std::move(op), .window = window, .height = image[1], .width = image[2], .inputs = std::move(inputs)};
}

// Where the operands may be: x or its gradient, w or its own, y or its own.
struct Cut {
    Placement x, w, y;
};

// A cut across groups that hold several channels or filters would tear some of them apart.
std::vector<Cut> cuts_of(std::int64_t groups, std::int64_t channels, std::int64_t filters) {
    const Placement whole = Placement::replicate(), first = Placement::shard(0), last = Placement::shard(3);
    std::vector<Cut> cuts;
    if (groups == 1) {
        cuts.push_back({whole, first, last}); // by filters: a gradient of x, summed over them, is Partial
        cuts.push_back({last, last, whole});  // by channels: y is, in the same way
    } else if (groups == channels && groups == filters) {
        cuts.push_back({last, first, last});
    }
    return cuts;
}

// dy, w -> dx of images of this height, width and channels; or x, w -> y of a transposed convolution.
class ConvolutionInputGradient final : public Op {
public:
    ConvolutionInputGradient(const Window& window, const Shape& image) // (N, H, W, C)
        : window_(window), height_(image[1]), width_(image[2]), channels_(image[3]) {}
    std::string_view name() const override { return "convolution_input_gradient"; }
    Attributes attributes() const override {
        return {{"window", attribute_of(window_)}, {"height", height_}, {"width", width_}, {"channels", channels_}};
    }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        const Shape &x = in[0].shape, &w = in[1].shape;
        expect_floating("x", in[0].dtype);
        expect_dtype("weight", in[1].dtype, in[0].dtype);
        if (x.rank() != 4 || x[1] != window_.height.outputs(height_) || x[2] != window_.width.outputs(width_))
            throw ConfigError(fmt::format("x is {}, expected (batch, {}, {}, channels)", x.text(),
                                          window_.height.outputs(height_), window_.width.outputs(width_)));
        if (w.rank() != 4 || w[0] != x[3] || w[1] != window_.height.size || w[2] != window_.width.size || w[3] < 1 ||
            channels_ % w[3] != 0 || w[0] % (channels_ / w[3]) != 0)
            throw ConfigError(fmt::format("weight is {}, expected ({}, {}, {}, channels of a group of {})", w.text(),
                                          x[3], window_.height.size, window_.width.size, channels_));
        return {{{x[0], height_, width_, channels_}, in[0].dtype}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override;
    std::vector<ExampleInput> example() const override {
        const std::int64_t filters = 6;
        const Shape weight{filters, window_.height.size, window_.width.size, 3};
        const Shape x{3, window_.height.outputs(height_), window_.width.outputs(width_), filters};
        return {{{x, DType::f32}}, {{weight, DType::f32}}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules{{{Placement::shard(0), Placement::replicate()}, {Placement::shard(0)}}};
        for (const Cut& cut : cuts_of(channels_ / in[1].shape[3], channels_, in[1].shape[0]))
            rules.push_back({{cut.y, cut.w}, {cut.x == Placement::replicate() ? Placement::partial() : cut.x}});
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType> out) const override {
        const Convolution shape = shape_of(out[0].shape, in[1].shape, window_);
        return std::visit(
            [&](auto& s) { return kernels::convolution_input_gradient_workspace_bytes(s, shape, in[0].dtype); },
            stream);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return flops_of(in[0].shape, in[1].shape);
    }
    std::optional<Substitute> with_halo(int axis, int ranks, std::span<const TensorType>,
                                        std::span<const Placement> inputs) const override {
        const Shape image{0, height_, width_, channels_};
        const auto over = [image](const Window& window) {
            return std::make_shared<ConvolutionInputGradient>(window, image);
        };
        WindowedOp op = windowed(over(window_), window_, image, {Reads::seen, Reads::whole});
        op.to_image = true;
        op.over = over;
        return tessera::with_halo(op, axis, ranks, inputs);
    }
    void run(Stream& stream, const Operands& a) const override {
        const Convolution shape = shape_of(a.outputs[0].shape, a.inputs[1].shape, window_);
        std::visit(
            [&](auto& s) {
                kernels::convolution_input_gradient(s, shape, a.inputs[0], a.inputs[1], a.outputs[0], a.workspace);
            },
            stream);
    }

private:
    Window window_;
    std::int64_t height_, width_, channels_;
};

// dy, x, w (where it is, not what it holds) -> dw, f32
class ConvolutionWeightGradient final : public Op {
public:
    explicit ConvolutionWeightGradient(const Window& window) : window_(window) {}
    std::string_view name() const override { return "convolution_weight_gradient"; }
    bool ignores(std::size_t input) const override { return input == 2; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {{in[2].shape, DType::f32}}; }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const Placement sample = Placement::shard(0);
        std::vector<PlacementRule> rules{{{sample, sample, Placement::replicate()}, {Placement::partial()}}};
        const std::int64_t channels = in[1].shape[3];
        for (const Cut& cut : cuts_of(channels / in[2].shape[3], channels, in[2].shape[0]))
            rules.push_back({{cut.y, cut.x, cut.w}, {cut.w}});
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType> out) const override {
        const Convolution shape = shape_of(in[1].shape, out[0].shape, window_);
        return std::visit(
            [&](auto& s) { return kernels::convolution_weight_gradient_workspace_bytes(s, shape, in[1].dtype); },
            stream);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType> out) const override {
        return flops_of(in[0].shape, out[0].shape);
    }
    std::optional<Substitute> with_halo(int axis, int ranks, std::span<const TensorType> in,
                                        std::span<const Placement> inputs) const override {
        const auto over = [](const Window& window) { return std::make_shared<ConvolutionWeightGradient>(window); };
        WindowedOp op = windowed(over(window_), window_, in[1].shape, {Reads::own, Reads::seen, Reads::whole});
        op.sums = true;
        op.over = over;
        return tessera::with_halo(op, axis, ranks, inputs);
    }
    void run(Stream& stream, const Operands& a) const override {
        const Convolution shape = shape_of(a.inputs[1].shape, a.outputs[0].shape, window_);
        std::visit(
            [&](auto& s) {
                kernels::convolution_weight_gradient(s, shape, a.inputs[0], a.inputs[1], a.outputs[0], a.workspace);
            },
            stream);
    }

private:
    Window window_;
};

class ConvolutionOp final : public Op { // x, w[, bias] -> y
public:
    ConvolutionOp(const Window& window, std::int64_t groups) : window_(window), groups_(groups) {}
    std::string_view name() const override { return "convolution"; }
    Attributes attributes() const override { return {{"window", attribute_of(window_)}, {"groups", groups_}}; }

    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        const Shape &x = in[0].shape, &w = in[1].shape;
        expect_image(in[0], window_);
        expect_dtype("weight", in[1].dtype, in[0].dtype);
        if (w.rank() != 4 || w[1] != window_.height.size || w[2] != window_.width.size)
            throw ConfigError(fmt::format("weight is {}, expected (filters, {}, {}, channels of a group)", w.text(),
                                          window_.height.size, window_.width.size));
        if (groups_ < 1 || x[3] != groups_ * w[3])
            throw ConfigError(
                fmt::format("x has {} channels, weight expects {} in {} groups", x[3], groups_ * w[3], groups_));
        if (w[0] % groups_ != 0)
            throw ConfigError(fmt::format("weight has {} filters, expected a multiple of {} groups", w[0], groups_));
        if (in.size() == 3) {
            expect_dtype("bias", in[2].dtype, DType::f32);
            expect_shape("bias", in[2].shape, {w[0]});
        }
        return {{windowed(x, window_, w[0]), in[0].dtype}};
    }

    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        const Shape image = graph.value(node.inputs[0]).type.shape;
        std::vector<ValueId> gradients{graph.apply_one(std::make_shared<ConvolutionInputGradient>(window_, image),
                                                       node.name + ".input_gradient", {dy[0], node.inputs[1]}),
                                       graph.apply_one(std::make_shared<ConvolutionWeightGradient>(window_),
                                                       node.name + ".weight_gradient",
                                                       {dy[0], node.inputs[0], node.inputs[1]})};
        if (node.inputs.size() == 3) gradients.push_back(ops::sum_rows(graph, node.name + ".bias_gradient", dy[0], 1));
        return gradients;
    }

    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        const auto add_rule = [&](Placement x, Placement w, Placement bias, Placement y) {
            rules.push_back({{x, w}, {y}});
            if (in.size() == 3) rules.back().inputs.push_back(bias);
        };
        const Placement whole = Placement::replicate(), first = Placement::shard(0);
        add_rule(first, whole, whole, first);
        for (const Cut& cut : cuts_of(groups_, in[0].shape[3], in[1].shape[0])) {
            const bool summed = cut.y == whole; // one of the ranks adds the bias
            add_rule(cut.x, cut.w, summed ? whole : first, summed ? Placement::partial() : cut.y);
        }
        return rules;
    }

    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        const Convolution shape = shape_of(in[0].shape, in[1].shape, window_);
        return std::visit(
            [&](auto& s) { return kernels::convolution_workspace_bytes(s, shape, in[0].dtype, in.size() == 3); },
            stream);
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType> out) const override {
        return flops_of(out[0].shape, in[1].shape);
    }
    std::optional<Substitute> with_halo(int axis, int ranks, std::span<const TensorType> in,
                                        std::span<const Placement> inputs) const override {
        std::vector<Reads> reads{Reads::seen};
        reads.resize(in.size(), Reads::whole);
        WindowedOp op = windowed(make_convolution(window_, groups_), window_, in[0].shape, std::move(reads));
        op.over = [groups = groups_](const Window& window) { return make_convolution(window, groups); };
        return tessera::with_halo(op, axis, ranks, inputs);
    }
    void run(Stream& stream, const Operands& a) const override {
        const Convolution shape = shape_of(a.inputs[0].shape, a.inputs[1].shape, window_);
        const ConstView bias = a.inputs.size() == 3 && a.counts(2) ? ConstView(a.inputs[2]) : ConstView();
        std::visit(
            [&](auto& s) { kernels::convolution(s, shape, a.inputs[0], a.inputs[1], bias, a.outputs[0], a.workspace); },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        const Shape weight{6, window_.height.size, window_.width.size, 6 / groups_};
        return {{{{3, 5, 4, 6}, DType::f32}}, {{weight, DType::f32}}, {{{6}, DType::f32}}};
    }

private:
    Window window_;
    std::int64_t groups_;
};

// It is linear in both: that of x is the convolution whose transpose this is, and x stands where dy stood.
std::vector<ValueId> ConvolutionInputGradient::gradient(Graph& graph, const Node& node,
                                                        std::span<const ValueId> dy) const {
    const std::int64_t groups = channels_ / graph.value(node.inputs[1]).type.shape[3];
    return {graph.apply_one(make_convolution(window_, groups), node.name + ".input_gradient", {dy[0], node.inputs[1]}),
            graph.apply_one(std::make_shared<ConvolutionWeightGradient>(window_), node.name + ".weight_gradient",
                            {node.inputs[0], dy[0], node.inputs[1]})};
}

} // namespace

OpPointer make_transposed_convolution(const Window& window, const Shape& image) {
    return std::make_shared<ConvolutionInputGradient>(window, Shape{0, image[0], image[1], image[2]});
}

OpPointer make_convolution(const Window& window, std::int64_t groups) {
    return std::make_shared<ConvolutionOp>(window, groups);
}

ValueId ops::convolution(Graph& graph, std::string name, ValueId x, ValueId w, ValueId bias, const Window& window,
                         std::int64_t groups) {
    std::vector<ValueId> inputs{x, w};
    if (bias != no_value) inputs.push_back(bias);
    return graph.apply_one(make_convolution(window, groups), std::move(name), std::move(inputs));
}

ValueId ops::transposed_convolution(Graph& graph, std::string name, ValueId x, ValueId w, ValueId bias,
                                    const Window& window, std::int64_t groups, std::int64_t more_rows,
                                    std::int64_t more_columns) {
    const Shape &in = graph.value(x).type.shape, &filters = graph.value(w).type.shape;
    const auto length = [](const WindowDim& dim, std::int64_t outputs, std::int64_t more) {
        return (outputs - 1) * dim.stride - dim.before - dim.after + dim.extent() + more;
    };
    const std::int64_t rows = length(window.height, in[1], more_rows),
                       columns = length(window.width, in[2], more_columns);
    if (rows < 1 || columns < 1)
        throw ConfigError(fmt::format("the result would be {} x {}: less padding, or a larger kernel", rows, columns));
    const Shape image{rows, columns, filters[3] * groups};
    const OpPointer op = make_transposed_convolution(window, image);
    if (bias == no_value) return graph.apply_one(op, std::move(name), {x, w});
    const ValueId sum = graph.apply_one(op, name + ".sum", {x, w});
    return add_rows(graph, std::move(name), sum, bias);
}

} // namespace tessera
