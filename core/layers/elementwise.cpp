// SPDX-License-Identifier: Apache-2.0
// Activations, add, concat, dropout, flatten and norms, as a config says them.
#include "core/layers/catalog.hpp"
#include "core/layers/layers.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"

namespace tessera::layers {
namespace {

BuildLayer norm_of(Norm kind, bool bias) {
    return [=](const LayerPlace& place) -> LayerValue {
        ResidualStream stream{as_seen(place.builder, place.inputs[0]), no_value};
        if (place.builder.graph().value(stream.sum).type.shape.rank() < 2)
            throw ConfigError("a number for each sample, expected a row");
        return {norm(place.builder, "", kind, bias, stream)};
    };
}

} // namespace

BuildLayer read_activation(const ConfigItem& item) {
    const Activation function = activation_named(item.get(layer_type));
    return [=](const LayerPlace& place) -> LayerValue {
        Builder& builder = place.builder;
        return {ops::activation(builder.graph(), builder.path(""), function, place.inputs[0].id), place.inputs[0].flat};
    };
}

BuildLayer read_add(const ConfigItem&) {
    return [](const LayerPlace& place) -> LayerValue {
        Builder& builder = place.builder;
        bool flat = true; // where all are, and lie alike
        for (const LayerValue& input : place.inputs)
            flat = flat && input.flat &&
                   builder.graph().value(input.id).type == builder.graph().value(place.inputs[0].id).type;
        const auto value = [&](const LayerValue& input) { return flat ? input.id : as_seen(builder, input); };
        ValueId sum = value(place.inputs[0]);
        for (std::size_t i = 1; i < place.inputs.size(); ++i)
            sum = ops::add(builder.graph(), builder.path(i + 1 < place.inputs.size() ? fmt::format("sum{}", i) : ""),
                           sum, value(place.inputs[i]));
        return {sum, flat};
    };
}

BuildLayer read_concat(const ConfigItem&) {
    return [](const LayerPlace& place) -> LayerValue {
        std::vector<ValueId> parts;
        for (const LayerValue& input : place.inputs)
            parts.push_back(as_seen(place.builder, input));
        return {ops::concatenate(place.builder.graph(), place.builder.path(""), std::move(parts))};
    };
}

BuildLayer read_dropout(const ConfigItem& item) {
    const double probability = item.get(layer_probability);
    if (!(probability >= 0 && probability < 1)) item.refuse(layer_probability.name, "must be at least 0 and below 1");
    return [=](const LayerPlace& place) -> LayerValue {
        Builder& builder = place.builder;
        const LayerValue x = place.inputs[0];
        if (probability == 0 || !builder.training()) return x;
        return {ops::dropout(builder.graph(), builder.path(""), x.id, probability), x.flat};
    };
}

BuildLayer read_flatten(const ConfigItem&) {
    return [](const LayerPlace& place) -> LayerValue { return {place.inputs[0].id, true}; };
}

BuildLayer read_layer_norm(const ConfigItem& item) { return norm_of(Norm::layer_norm, item.get(layer_bias)); }

BuildLayer read_rms_norm(const ConfigItem&) { return norm_of(Norm::rms_norm, false); }

} // namespace tessera::layers
