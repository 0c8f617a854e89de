// SPDX-License-Identifier: Apache-2.0
// convolution, its transpose, embedding and linear, as a config says them.
#include "core/layers/catalog.hpp"
#include "core/layers/windows.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cmath>

namespace tessera::layers {
namespace {

// Of initial weights, each number being the sum of so many products (He et al. 2015, for ReLU).
double deviation_of(double said, std::int64_t inputs) {
    return said > 0 ? said : std::sqrt(2.0 / static_cast<double>(inputs));
}

double deviation_in(const ConfigItem& item) {
    const double deviation = item.get(layer_deviation);
    if (!(deviation >= 0 && deviation < 1e6)) item.refuse(layer_deviation.name, "must be from 0 to 1e6");
    return deviation;
}

std::int64_t positive(const ConfigItem& item, const Key<std::int64_t>& key) {
    const std::int64_t value = item.get(key);
    constexpr std::int64_t most = 1 << 24;
    if (value < 1 || value > most) item.refuse(key.name, fmt::format("must be from 1 to {}", most));
    return value;
}

// What strategies decide by; without a partner a product stays whole.
std::string role_of(Sharing sharing, std::string_view second) {
    if (sharing == Sharing::first) return "column_if_even";
    return sharing == Sharing::second ? std::string(second) : "whole";
}

ValueId bias_of(const LayerPlace& place, std::int64_t width) {
    return place.builder.vector("bias", {width}, place.sharing == Sharing::first ? "column_if_even" : "bias", 0);
}

} // namespace

BuildLayer read_convolution(const ConfigItem& item) {
    const std::int64_t filters = positive(item, layer_filters), groups = positive(item, layer_groups);
    const Window window = window_of(item, 1);
    const double deviation = deviation_in(item);
    const bool bias = item.get(layer_bias);
    return [=](const LayerPlace& place) -> LayerValue {
        Builder& builder = place.builder;
        const ValueId x = as_seen(builder, place.inputs[0]);
        const Shape& image = builder.graph().value(x).type.shape;
        expect_image_of(image);
        if (image[3] % groups != 0)
            throw ConfigError(fmt::format("{} channels, expected a multiple of {} groups", image[3], groups));
        const std::int64_t channels = image[3] / groups;
        const ValueId weight = builder.matrix("weight", {filters, window.height.size, window.width.size, channels},
                                              role_of(place.sharing, "channels_if_even"),
                                              deviation_of(deviation, window.taps() * channels));
        const ValueId offset = bias ? bias_of(place, filters) : no_value;
        return {ops::convolution(builder.graph(), builder.path(""), x, weight, offset, window, groups)};
    };
}

// Each number of the result is a sum of about the window's taps, divided by the stride, of each channel of a group.
BuildLayer read_transposed_convolution(const ConfigItem& item) {
    const std::int64_t filters = positive(item, layer_filters), groups = positive(item, layer_groups);
    const Window window = window_of(item, 1);
    const auto more = pair_in(item, layer_output_padding, 0);
    if (more.first >= window.height.stride || more.second >= window.width.stride)
        item.refuse(layer_output_padding.name, "must be below the stride");
    if (filters % groups != 0) item.refuse(layer_filters.name, fmt::format("expected a multiple of {} groups", groups));
    const double deviation = deviation_in(item);
    const bool bias = item.get(layer_bias);
    return [=](const LayerPlace& place) -> LayerValue {
        Builder& builder = place.builder;
        const ValueId x = as_seen(builder, place.inputs[0]);
        const Shape& image = builder.graph().value(x).type.shape;
        expect_image_of(image);
        if (image[3] % groups != 0)
            throw ConfigError(fmt::format("{} channels, expected a multiple of {} groups", image[3], groups));
        const std::int64_t inputs = window.taps() * image[3] / groups / (window.height.stride * window.width.stride);
        const ValueId weight =
            builder.matrix("weight", {image[3], window.height.size, window.width.size, filters / groups}, "whole",
                           deviation_of(deviation, std::max<std::int64_t>(inputs, 1)));
        const ValueId offset = bias ? bias_of(place, filters) : no_value;
        return {ops::transposed_convolution(builder.graph(), builder.path(""), x, weight, offset, window, groups,
                                            more.first, more.second)};
    };
}

BuildLayer read_embedding(const ConfigItem& item) {
    const std::int64_t width = positive(item, layer_outputs);
    const double said = deviation_in(item), deviation = said > 0 ? said : 0.05;
    return [=](const LayerPlace& place) -> LayerValue {
        Builder& builder = place.builder;
        const ValueId tokens = place.inputs[0].id;
        if (builder.graph().value(tokens).type.dtype != DType::i32)
            throw ConfigError("numbers, expected those of tokens or classes");
        const ValueId table = builder.table("weight", place.classes, width, deviation);
        return {ops::embedding(builder.graph(), builder.path(""), tokens, table, place.classes)};
    };
}

BuildLayer read_linear(const ConfigItem& item) {
    const std::int64_t outputs = positive(item, layer_outputs);
    const double deviation = deviation_in(item);
    const bool bias = item.get(layer_bias);
    return [=](const LayerPlace& place) -> LayerValue {
        Builder& builder = place.builder;
        const LayerValue x = place.inputs[0];
        const Shape& shape = builder.graph().value(x.id).type.shape;
        if (shape.rank() < 2) throw ConfigError("a number for each sample, expected a row");
        const int contracted = x.flat ? shape.rank() - 1 : 1; // as it lies, so that channels stay a dim
        const Shape inputs = shape.slice(shape.rank() - contracted, shape.rank());
        Shape of_weight{outputs};
        for (int dim = 0; dim < inputs.rank(); ++dim)
            of_weight.append(inputs[dim]);
        const ValueId weight = builder.linear_weight(
            "weight", of_weight, role_of(place.sharing, contracted == 3 ? "channels_if_even" : "row_if_even"),
            deviation_of(deviation, inputs.count()));
        const ValueId offset = bias ? bias_of(place, outputs) : no_value;
        return {builder.linear("", x.id, weight, offset, contracted)};
    };
}

} // namespace tessera::layers
