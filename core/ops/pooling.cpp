// SPDX-License-Identifier: Apache-2.0
// max_pool and average_pool: the largest and the mean over windows of an image, and their gradients.
#include "kernels/pooling.hpp"
#include "core/graph/attributes.hpp"
#include "core/ops/halo.hpp"
#include "core/ops/images.hpp"
#include "core/ops/ops.hpp"

namespace tessera {
namespace {

Pooling shape_of(const Shape& image, const Window& window) {
    return {.batch = image[0], .height = image[1], .width = image[2], .channels = image[3], .window = window};
}

// Samples and channels are pooled each on their own.
std::vector<PlacementRule> pooling_rules(std::size_t inputs, std::size_t outputs) {
    std::vector<PlacementRule> rules;
    for (const int dim : {0, 3})
        rules.push_back({std::vector<Placement>(inputs, Placement::shard(dim)),
                         std::vector<Placement>(outputs, Placement::shard(dim))});
    return rules;
}

// Of an op whose inputs are images, or all made by windows.
std::optional<Op::Substitute> pooled_with_halo(const std::function<OpPointer(const Window&)>& over,
                                               const Window& window, std::int64_t height, std::int64_t width,
                                               bool to_image, std::size_t outputs, int axis, int ranks,
                                               std::span<const Placement> inputs) {
    const WindowedOp op{.op = over(window),
                        .window = window,
                        .height = height,
                        .width = width,
                        .inputs = std::vector(inputs.size(), WindowedOp::Reads::seen),
                        .outputs = outputs,
                        .to_image = to_image,
                        .over = over};
    return with_halo(op, axis, ranks, inputs);
}

bool covers_padding_alone(const WindowDim& dim, std::int64_t length) {
    for (std::int64_t output = 0; output < dim.outputs(length); ++output) {
        bool inside = false;
        for (std::int64_t tap = 0; tap < dim.size; ++tap) {
            const std::int64_t place = output * dim.stride - dim.before + tap * dim.dilation;
            inside = inside || (place >= 0 && place < length);
        }
        if (!inside) return true;
    }
    return false;
}

TensorType pooled(const TensorType& x, const Window& window) {
    expect_image(x, window);
    if (covers_padding_alone(window.height, x.shape[1]) || covers_padding_alone(window.width, x.shape[2]))
        throw ConfigError(fmt::format("a window of {} x {} covers padding alone beside x, which is {}; expected less "
                                      "padding",
                                      window.height.size, window.width.size, x.shape.text()));
    return {windowed(x.shape, window, x.shape[3]), x.dtype};
}

class MaxPoolGradient final : public Op { // dy, taps -> dx of images of this height and width
public:
    MaxPoolGradient(const Window& window, const Shape& image) : window_(window), height_(image[1]), width_(image[2]) {}
    std::string_view name() const override { return "max_pool_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return {{{in[0].shape[0], height_, width_, in[0].shape[3]}, in[0].dtype}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override { return pooling_rules(2, 1); }
    std::optional<Substitute> with_halo(int axis, int ranks, std::span<const TensorType>,
                                        std::span<const Placement> inputs) const override {
        const Shape image{0, height_, width_, 0};
        const auto over = [image](const Window& window) { return std::make_shared<MaxPoolGradient>(window, image); };
        return pooled_with_halo(over, window_, height_, width_, true, 1, axis, ranks, inputs);
    }
    void run(Stream& stream, const Operands& a) const override {
        const Pooling shape = shape_of(a.outputs[0].shape, window_);
        std::visit([&](auto& s) { kernels::max_pool_gradient(s, shape, a.inputs[0], a.inputs[1], a.outputs[0]); },
                   stream);
    }

private:
    Window window_;
    std::int64_t height_, width_;
};

class MaxPool final : public Op { // x -> y, taps
public:
    explicit MaxPool(const Window& window) : window_(window) {}
    std::string_view name() const override { return "max_pool"; }
    Attributes attributes() const override { return {{"window", attribute_of(window_)}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        const TensorType y = pooled(in[0], window_);
        return {y, {y.shape, DType::i32}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        const Shape image = graph.value(node.inputs[0]).type.shape;
        return graph.apply(std::make_shared<MaxPoolGradient>(window_, image), node.name + ".gradient",
                           {dy[0], node.outputs[1]});
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override { return pooling_rules(1, 2); }
    std::optional<Substitute> with_halo(int axis, int ranks, std::span<const TensorType> in,
                                        std::span<const Placement> inputs) const override {
        return pooled_with_halo(make_max_pool, window_, in[0].shape[1], in[0].shape[2], false, 2, axis, ranks, inputs);
    }
    void run(Stream& stream, const Operands& a) const override {
        const Pooling shape = shape_of(a.inputs[0].shape, window_);
        std::visit([&](auto& s) { kernels::max_pool(s, shape, a.inputs[0], a.outputs[0], a.outputs[1]); }, stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{3, 5, 4, 6}, DType::f32}}}; }

private:
    Window window_;
};

class AveragePoolGradient final : public Op { // dy -> dx of images of this height and width
public:
    AveragePoolGradient(const Window& window, bool count_padding, const Shape& image)
        : window_(window), count_padding_(count_padding), height_(image[1]), width_(image[2]) {}
    std::string_view name() const override { return "average_pool_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return {{{in[0].shape[0], height_, width_, in[0].shape[3]}, in[0].dtype}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override { return pooling_rules(1, 1); }
    std::optional<Substitute> with_halo(int axis, int ranks, std::span<const TensorType>,
                                        std::span<const Placement> inputs) const override {
        const auto over = [counts = count_padding_, image = Shape{0, height_, width_, 0}](const Window& window) {
            return std::make_shared<AveragePoolGradient>(window, counts, image);
        };
        return pooled_with_halo(over, window_, height_, width_, true, 1, axis, ranks, inputs);
    }
    void run(Stream& stream, const Operands& a) const override {
        const Pooling shape = shape_of(a.outputs[0].shape, window_);
        std::visit(
            [&](auto& s) { kernels::average_pool_gradient(s, shape, count_padding_, a.inputs[0], a.outputs[0]); },
            stream);
    }

private:
    Window window_;
    bool count_padding_;
    std::int64_t height_, width_;
};

class AveragePool final : public Op { // x -> y
public:
    AveragePool(const Window& window, bool count_padding) : window_(window), count_padding_(count_padding) {}
    std::string_view name() const override { return "average_pool"; }
    Attributes attributes() const override {
        return {{"window", attribute_of(window_)}, {"count_padding", count_padding_}};
    }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {pooled(in[0], window_)}; }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        const Shape image = graph.value(node.inputs[0]).type.shape;
        return {graph.apply_one(std::make_shared<AveragePoolGradient>(window_, count_padding_, image),
                                node.name + ".gradient", {dy[0]})};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules = pooling_rules(1, 1);
        for (const int dim : {1, 2}) // a mean over all rows is the sum of the parts' shares
            if (is_over_all(in[0].shape, dim)) rules.push_back({{Placement::shard(dim)}, {Placement::partial()}});
        return rules;
    }
    std::optional<Substitute> with_halo(int axis, int ranks, std::span<const TensorType> in,
                                        std::span<const Placement> inputs) const override {
        const auto over = [counts = count_padding_](const Window& window) { return make_average_pool(window, counts); };
        return pooled_with_halo(over, window_, in[0].shape[1], in[0].shape[2], false, 1, axis, ranks, inputs);
    }
    // Of a part of the rows that one window covers: the others count as padding with zeros.
    void run(Stream& stream, const Operands& a) const override {
        Window window = window_;
        bool part = false;
        for (const int dim : {1, 2}) {
            WindowDim& along = dim == 1 ? window.height : window.width;
            if (a.locality == nullptr || !is_over_all(a.locality->wholes[0], dim)) continue;
            along.after = along.size - a.inputs[0].shape[dim];
            part = part || along.after > 0;
        }
        const Pooling shape = shape_of(a.inputs[0].shape, window);
        std::visit([&](auto& s) { kernels::average_pool(s, shape, part || count_padding_, a.inputs[0], a.outputs[0]); },
                   stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{3, 5, 4, 6}, DType::f32}}}; }

private:
    // One window covers the whole dim, nothing is padded, and so each part's share is its sum by the window's taps.
    bool is_over_all(const Shape& image, int dim) const {
        const WindowDim& along = dim == 1 ? window_.height : window_.width;
        const bool padded =
            window_.height.before + window_.height.after + window_.width.before + window_.width.after > 0;
        return !padded && along.dilation == 1 && along.size == image[dim];
    }

    Window window_;
    bool count_padding_;
};

} // namespace

OpPointer make_max_pool(const Window& window) { return std::make_shared<MaxPool>(window); }

OpPointer make_average_pool(const Window& window, bool count_padding) {
    return std::make_shared<AveragePool>(window, count_padding);
}

ValueId ops::max_pool(Graph& graph, std::string name, ValueId x, const Window& window) {
    return graph.apply(make_max_pool(window), std::move(name), {x})[0];
}

ValueId ops::average_pool(Graph& graph, std::string name, ValueId x, const Window& window, bool count_padding) {
    return graph.apply_one(make_average_pool(window, count_padding), std::move(name), {x});
}

} // namespace tessera
