// SPDX-License-Identifier: Apache-2.0
// batch_norm, and the residual blocks of convolutions that it holds together.
#include "core/layers/catalog.hpp"
#include "core/layers/windows.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"

#include <cmath>

namespace tessera::layers {
namespace {

struct NormOptions {
    double momentum = 0.1, epsilon = 1e-5, scale = 1;
};

NormOptions norm_options(const ConfigItem& item, double scale) {
    const NormOptions options{item.get(layer_momentum), item.get(layer_epsilon),
                              item.is_set(layer_init_scale.name) ? item.get(layer_init_scale) : scale};
    if (!(options.momentum > 0 && options.momentum <= 1))
        item.refuse(layer_momentum.name, "must be above 0 and at most 1");
    if (!(options.epsilon > 0 && options.epsilon < 1)) item.refuse(layer_epsilon.name, "must be above 0 and below 1");
    if (!(std::abs(options.scale) < 1e6)) item.refuse(layer_init_scale.name, "must be from -1e6 to 1e6");
    return options;
}

// In the builder's scope.
ValueId batch_norm(Builder& builder, const NormOptions& options, ValueId x) {
    Graph& graph = builder.graph();
    if (graph.value(x).type.shape.rank() < 2) throw ConfigError("a number for each sample, expected a row");
    const Shape channels{graph.value(x).type.shape[-1]};
    const ValueId scale = builder.vector("scale", channels, "norm", options.scale);
    const ValueId bias = builder.vector("bias", channels, "norm", 0);
    const RunningStatistics running = builder.running_statistics(channels, options.momentum);
    if (!builder.training())
        return ops::batch_norm_inference(graph, builder.path(""), x, running.mean, running.variance, scale, bias,
                                         options.epsilon);
    const auto [y, moments] = ops::batch_norm(graph, builder.path(""), x, scale, bias, options.epsilon);
    builder.accumulate(running, moments);
    return y;
}

struct BlockOptions {
    std::int64_t filters = 0, stride = 1;
    bool bottleneck = false;
    NormOptions norm{}, last_norm{};
};

// Convolution `number` of a block and its norm: weights "convI.weight", "normI.scale", …
ValueId convolve(Builder& builder, std::string_view number, ValueId x, std::int64_t filters, std::int64_t size,
                 std::int64_t stride, const NormOptions& norm) {
    Graph& graph = builder.graph();
    const std::int64_t channels = graph.value(x).type.shape[3], taps = size * size * channels;
    const auto scoped = [&](std::string_view what) { return fmt::format("{}{}", what, number); };
    const WindowDim dim{.size = size, .stride = stride, .before = size / 2, .after = size / 2};
    {
        const Builder::Scope scope(builder, scoped("conv"));
        const ValueId weight = builder.matrix("weight", {filters, size, size, channels}, "whole",
                                              std::sqrt(2.0 / static_cast<double>(taps)));
        x = ops::convolution(graph, builder.path(""), x, weight, no_value, {dim, dim});
    }
    const Builder::Scope scope(builder, scoped("norm"));
    return batch_norm(builder, norm, x);
}

ValueId relu(Builder& builder, std::string_view name, ValueId x) {
    return ops::activation(builder.graph(), builder.path(name), Activation::relu, x);
}

ValueId block(Builder& builder, const BlockOptions& of, ValueId x) {
    const bool projects = of.stride != 1 || builder.graph().value(x).type.shape[3] != of.filters;
    ValueId y = x;
    if (of.bottleneck) {
        y = relu(builder, "relu1", convolve(builder, "1", y, of.filters / 4, 1, 1, of.norm));
        y = relu(builder, "relu2", convolve(builder, "2", y, of.filters / 4, 3, of.stride, of.norm));
        y = convolve(builder, "3", y, of.filters, 1, 1, of.last_norm);
    } else {
        y = relu(builder, "relu1", convolve(builder, "1", y, of.filters, 3, of.stride, of.norm));
        y = convolve(builder, "2", y, of.filters, 3, 1, of.last_norm);
    }
    const ValueId shortcut = projects ? convolve(builder, "_shortcut", x, of.filters, 1, of.stride, of.norm) : x;
    return relu(builder, "", ops::add(builder.graph(), builder.path("sum"), y, shortcut));
}

} // namespace

BuildLayer read_batch_norm(const ConfigItem& item) {
    const NormOptions options = norm_options(item, 1);
    return [=](const LayerPlace& place) -> LayerValue {
        return {batch_norm(place.builder, options, as_seen(place.builder, place.inputs[0]))};
    };
}

std::int64_t count_residual_blocks(const ConfigItem& item) {
    const std::int64_t count = item.get(layer_blocks);
    if (count < 1 || count > 1000) item.refuse(layer_blocks.name, "must be from 1 to 1000");
    return count;
}

// The first has the stride, in its 3 x 3 convolution (ResNet 1.5, as in PyTorch's torchvision).
BuildLayer read_residual_blocks(const ConfigItem& item) {
    BlockOptions options{.filters = item.get(layer_filters), .bottleneck = item.get(layer_bottleneck)};
    if (options.filters < 1 || options.filters > 1 << 24 || (options.bottleneck && options.filters % 4 != 0))
        item.refuse(layer_filters.name, options.bottleneck ? "must be a multiple of 4, above 0" : "must be at least 1");
    const std::vector<std::int64_t> stride = item.get(layer_stride);
    if (stride.size() > 1 || (stride.size() == 1 && (stride[0] < 1 || stride[0] > 1 << 20)))
        item.refuse(layer_stride.name, "expected one number, at least 1");
    options.norm = norm_options(item, 1);
    options.norm.scale = 1;
    options.last_norm = norm_options(item, 0);
    const std::int64_t count = count_residual_blocks(item), first_stride = stride.empty() ? 1 : stride[0];
    return [=](const LayerPlace& place) -> LayerValue {
        Builder& builder = place.builder;
        ValueId x = as_seen(builder, place.inputs[0]);
        expect_image_of(builder.graph().value(x).type.shape);
        for (std::int64_t i = 0; i < count; ++i) {
            const Builder::Scope scope(builder, fmt::format("{}", i), place.number + static_cast<int>(i));
            BlockOptions one = options;
            one.stride = i == 0 ? first_stride : 1;
            x = block(builder, one, x);
        }
        return {x};
    };
}

} // namespace tessera::layers
