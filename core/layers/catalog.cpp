// SPDX-License-Identifier: Apache-2.0
// The one list of layer types, and what their tables may say.
#include "core/layers/catalog.hpp"

#include "core/extension.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <array>
#include <fmt/ranges.h>

namespace tessera::layers {
namespace {

const std::vector<std::string_view> of_pools = {layer_kernel.name, layer_stride.name, layer_padding.name,
                                                layer_global.name};

std::vector<std::string_view> with(std::vector<std::string_view> keys, std::string_view another) {
    keys.push_back(another);
    return keys;
}

const std::vector<std::string_view> of_recurrent = {layer_hidden.name,  layer_layers.name, layer_bidirectional.name,
                                                    layer_dropout.name, layer_bias.name,   layer_deviation.name};

bool is_whole(const ConfigItem& item) { return item.get(layer_groups) == 1; }
bool never(const ConfigItem&) { return false; }

const std::array<LayerType, 26> catalog = {{
    {"add", LayerKind::other, 2, 1000, {}, read_add},
    {"average_pool", LayerKind::elementwise, 1, 1, with(of_pools, layer_count_padding.name), read_average_pool},
    {"batch_norm",
     LayerKind::other,
     1,
     1,
     {layer_momentum.name, layer_epsilon.name, layer_init_scale.name},
     read_batch_norm},
    {"binary_cross_entropy",
     LayerKind::loss,
     2,
     2,
     {layer_positive_weight.name, layer_weight.name},
     read_pointwise_loss,
     {},
     {},
     false,
     false,
     false,
     true},
    {"concat", LayerKind::other, 2, 1000, {}, read_concat},
    {"convolution",
     LayerKind::product,
     1,
     1,
     {layer_filters.name, layer_kernel.name, layer_stride.name, layer_padding.name, layer_dilation.name,
      layer_groups.name, layer_bias.name, layer_deviation.name},
     read_convolution,
     is_whole},
    {"cross_entropy",
     LayerKind::loss,
     2,
     2,
     {layer_class_weights.name, layer_ignore_index.name, layer_label_smoothing.name, layer_weight.name},
     read_cross_entropy,
     {},
     {},
     true},
    {"dropout", LayerKind::other, 1, 1, {layer_probability.name}, read_dropout},
    {"embedding", LayerKind::product, 1, 1, {layer_outputs.name, layer_deviation.name}, read_embedding, never},
    {"flatten", LayerKind::elementwise, 1, 1, {}, read_flatten},
    {"gelu", LayerKind::elementwise, 1, 1, {}, read_activation},
    {"gelu_tanh", LayerKind::elementwise, 1, 1, {}, read_activation},
    {"gru", LayerKind::product, 1, 1, of_recurrent, read_gru, never, {}, false, true},
    {"huber",
     LayerKind::loss,
     2,
     2,
     {layer_delta.name, layer_weight.name},
     read_pointwise_loss,
     {},
     {},
     false,
     false,
     true},
    {"layer_norm", LayerKind::other, 1, 1, {layer_bias.name}, read_layer_norm},
    {"linear", LayerKind::product, 1, 1, {layer_outputs.name, layer_bias.name, layer_deviation.name}, read_linear},
    {"lstm", LayerKind::product, 1, 1, of_recurrent, read_lstm, never, {}, false, true},
    {"max_pool", LayerKind::elementwise, 1, 1, with(of_pools, layer_dilation.name), read_max_pool},
    {"mean_absolute_error",
     LayerKind::loss,
     2,
     2,
     {layer_weight.name},
     read_pointwise_loss,
     {},
     {},
     false,
     false,
     true},
    {"mean_squared_error", LayerKind::loss, 2, 2, {layer_weight.name}, read_pointwise_loss, {}, {}, false, false, true},
    {"relu", LayerKind::elementwise, 1, 1, {}, read_activation},
    {"residual_blocks",
     LayerKind::other,
     1,
     1,
     {layer_filters.name, layer_blocks.name, layer_stride.name, layer_bottleneck.name, layer_momentum.name,
      layer_epsilon.name, layer_init_scale.name},
     read_residual_blocks,
     {},
     count_residual_blocks},
    {"rms_norm", LayerKind::other, 1, 1, {}, read_rms_norm},
    {"silu", LayerKind::elementwise, 1, 1, {}, read_activation},
    {"tanh", LayerKind::elementwise, 1, 1, {}, read_activation},
    {"transposed_convolution",
     LayerKind::product,
     1,
     1,
     {layer_filters.name, layer_kernel.name, layer_stride.name, layer_padding.name, layer_output_padding.name,
      layer_dilation.name, layer_groups.name, layer_bias.name, layer_deviation.name},
     read_transposed_convolution,
     [](const ConfigItem&) { return false; }},
}};

std::string_view last_word(std::string_view key) { return key.substr(key.rfind('.') + 1); }

} // namespace

std::span<const LayerType> layer_catalog() { return catalog; }

const LayerType& type_of(const ConfigItem& item) {
    const std::string name = item.get(layer_type);
    if (name.empty()) item.refuse("a layer without a type");
    std::vector<std::string_view> names;
    const LayerType* found = nullptr;
    for (const std::span<const LayerType> types : {std::span<const LayerType>(catalog), std::span(extension().layers)})
        for (const LayerType& type : types) {
            names.push_back(type.name);
            if (type.name == name) found = &type;
        }
    if (found == nullptr) item.refuse(layer_type.name, no_such_name("layer type", name, names));
    const LayerType& type = *found;
    for (const std::string_view key : item.keys_set()) {
        if (key == layer_name.name || key == layer_type.name || key == layer_inputs.name) continue;
        if (std::ranges::find(type.keys, key) != type.keys.end()) continue;
        std::vector<std::string_view> known;
        for (const std::string_view one : type.keys)
            known.push_back(last_word(one));
        item.refuse(key, known.empty() ? fmt::format("a layer of type '{}' has no such key", name)
                                       : fmt::format("a layer of type '{}' has no such key, but {}", name,
                                                     fmt::join(known, ", ")));
    }
    return type;
}

ValueId as_seen(Builder& builder, const LayerValue& value) {
    if (!value.flat || builder.graph().value(value.id).type.shape.rank() <= 2) return value.id;
    return ops::flatten(builder.graph(), builder.path("flat"), value.id);
}

std::string text_of(const Graph& graph, const LayerValue& value) {
    const Shape& shape = graph.value(value.id).type.shape;
    const Shape sample = shape.slice(std::min(shape.rank(), 1), shape.rank());
    return value.flat ? Shape{sample.count()}.text() : sample.text();
}

} // namespace tessera::layers
