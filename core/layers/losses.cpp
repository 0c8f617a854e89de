// SPDX-License-Identifier: Apache-2.0
// cross_entropy and mean_squared_error, as a config says them.
#include "core/layers/catalog.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"

namespace tessera::layers {
namespace {

void check_weight(const ConfigItem& item) {
    const double weight = item.get(layer_weight);
    if (!(weight > 0 && weight < 1e6)) item.refuse(layer_weight.name, "must be above 0 and below 1e6");
}

} // namespace

BuildLayer read_cross_entropy(const ConfigItem& item) {
    check_weight(item);
    if (item.get(layer_ignore_index) < -1) item.refuse(layer_ignore_index.name, "must be a class, or -1 for none");
    return [](const LayerPlace& place) -> LayerValue {
        Graph& graph = place.builder.graph();
        const ValueId logits = as_seen(place.builder, place.inputs[0]), targets = place.inputs[1].id;
        const std::string name = place.builder.path("");
        if (graph.value(targets).type.dtype != DType::i32)
            throw ConfigError("what is wanted is no class, but numbers: mean_squared_error compares them");
        const std::int64_t columns = graph.value(logits).type.shape[-1];
        if (columns < place.classes)
            throw ConfigError(fmt::format("{} logits, but the data have {} classes", columns, place.classes));
        if (place.scale == no_value) return {ops::cross_entropy_loss(graph, name, logits, targets, columns)};
        return {ops::cross_entropy(graph, name, logits, targets, place.scale, columns)};
    };
}

BuildLayer read_mean_squared_error(const ConfigItem& item) {
    check_weight(item);
    return [](const LayerPlace& place) -> LayerValue {
        Graph& graph = place.builder.graph();
        const ValueId y = as_seen(place.builder, place.inputs[0]), targets = place.inputs[1].id;
        const std::string name = place.builder.path("");
        if (graph.value(targets).type.dtype != DType::f32)
            throw ConfigError("what is wanted is a class, no numbers: cross_entropy takes it");
        if (place.scale == no_value) return {ops::mean_squared_error_loss(graph, name, y, targets)};
        return {ops::mean_squared_error(graph, name, y, targets, place.scale)};
    };
}

} // namespace tessera::layers
