// SPDX-License-Identifier: Apache-2.0
// The losses, as a config says them.
#include "core/layers/catalog.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"

namespace tessera::layers {
namespace {

using kernels::PointwiseLoss;

double within(const ConfigItem& item, const Key<double>& key, double above, double below) {
    const double value = item.get(key);
    if (!(value > above && value < below))
        item.refuse(key.name, fmt::format("must be above {} and below {:g}", above, below));
    return value;
}

void check_cross_entropy(const ConfigItem& item) {
    within(item, layer_weight, 0, 1e6);
    if (item.get(layer_ignore_index) < -1) item.refuse(layer_ignore_index.name, "must be a class, or -1 for none");
    if (const double smoothing = item.get(layer_label_smoothing); !(smoothing >= 0 && smoothing < 1))
        item.refuse(layer_label_smoothing.name, "must be at least 0 and below 1");
    const std::vector<double> weights = item.get(layer_class_weights);
    double sum = 0;
    for (const double weight : weights) {
        if (!(weight >= 0 && weight < 1e6)) item.refuse(layer_class_weights.name, "each must be from 0 to 1e6");
        sum += weight;
    }
    if (!weights.empty() && sum == 0) item.refuse(layer_class_weights.name, "no class weighs anything");
}

PointwiseLoss pointwise_loss_of(const ConfigItem& item) {
    const std::string type = item.get(layer_type);
    PointwiseLoss loss;
    if (type == "mean_absolute_error") loss.kind = PointwiseLoss::Kind::absolute;
    if (type == "huber") {
        loss.kind = PointwiseLoss::Kind::huber;
        loss.delta = static_cast<float>(within(item, layer_delta, 0, 1e6));
    }
    if (type == "binary_cross_entropy") {
        loss.kind = PointwiseLoss::Kind::binary;
        loss.positive_weight = static_cast<float>(within(item, layer_positive_weight, 0, 1e6));
    }
    return loss;
}

} // namespace

BuildLayer read_cross_entropy(const ConfigItem& item) {
    check_cross_entropy(item);
    return [smoothing = item.get(layer_label_smoothing)](const LayerPlace& place) -> LayerValue {
        Graph& graph = place.builder.graph();
        const ValueId logits = as_seen(place.builder, place.inputs[0]), targets = place.inputs[1].id;
        const std::string name = place.builder.path("");
        if (graph.value(targets).type.dtype != DType::i32 && !place.soft_labels)
            throw ConfigError("what is wanted is no class, but numbers: mean_squared_error compares them");
        const std::int64_t columns = graph.value(logits).type.shape[-1];
        if (columns < place.classes)
            throw ConfigError(fmt::format("{} logits, but the data have {} classes", columns, place.classes));
        if (place.soft_labels && columns != place.classes)
            throw ConfigError(fmt::format("{} logits, and data.mixup gives probabilities of {} classes: say as many",
                                          columns, place.classes));
        if (place.soft_labels)
            return {ops::soft_cross_entropy(graph, name, logits, targets, place.scale, place.classes, smoothing)};
        const double spread = place.scale == no_value ? 0 : smoothing; // in training alone
        if (spread > 0 || place.class_weights != no_value)
            return {ops::smoothed_cross_entropy(graph, name, logits, targets, place.scale, columns, spread,
                                                place.class_weights)};
        if (place.scale == no_value) return {ops::cross_entropy_loss(graph, name, logits, targets, columns)};
        return {ops::cross_entropy(graph, name, logits, targets, place.scale, columns)};
    };
}

BuildLayer read_pointwise_loss(const ConfigItem& item) {
    within(item, layer_weight, 0, 1e6);
    return [loss = pointwise_loss_of(item)](const LayerPlace& place) -> LayerValue {
        Graph& graph = place.builder.graph();
        const ValueId y = as_seen(place.builder, place.inputs[0]), targets = place.inputs[1].id;
        if (graph.value(targets).type.dtype != DType::f32 || place.soft_labels)
            throw ConfigError("what is wanted is a class, no numbers: cross_entropy takes it");
        return {ops::pointwise_loss(graph, place.builder.path(""), loss, y, targets, place.scale)};
    };
}

} // namespace tessera::layers
