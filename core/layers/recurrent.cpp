// SPDX-License-Identifier: Apache-2.0
// lstm and gru, as a config says them.
#include "core/layers/carried_states.hpp"
#include "core/layers/catalog.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"

#include <cmath>

namespace tessera::layers {
namespace {

struct RecurrentOptions {
    bool lstm = true;
    std::int64_t hidden = 0, layers = 1, directions = 1;
    double dropout = 0, deviation = 0;
    bool bias = true;

    std::int64_t gates() const { return lstm ? 4 : 3; }
    std::int64_t width() const { return directions * hidden; }
};

RecurrentOptions options_of(const ConfigItem& item, bool lstm) {
    constexpr std::int64_t most_units = 1 << 20, most_layers = 1024;
    RecurrentOptions options;
    options.lstm = lstm;
    options.hidden = item.get(layer_hidden);
    if (options.hidden < 1 || options.hidden > most_units)
        item.refuse(layer_hidden.name, fmt::format("must be from 1 to {}", most_units));
    options.layers = item.get(layer_layers);
    if (options.layers < 1 || options.layers > most_layers)
        item.refuse(layer_layers.name, fmt::format("must be from 1 to {}", most_layers));
    options.directions = item.get(layer_bidirectional) ? 2 : 1;
    options.dropout = item.get(layer_dropout);
    if (!(options.dropout >= 0 && options.dropout < 1))
        item.refuse(layer_dropout.name, "must be at least 0 and below 1");
    if (options.dropout > 0 && options.layers == 1)
        item.refuse(layer_dropout.name, "is between layers stacked here, and there is but one");
    options.deviation = item.get(layer_deviation);
    if (!(options.deviation >= 0 && options.deviation < 1e6))
        item.refuse(layer_deviation.name, "must be from 0 to 1e6");
    if (options.deviation == 0) options.deviation = 1 / std::sqrt(3.0 * static_cast<double>(options.hidden));
    options.bias = item.get(layer_bias);
    return options;
}

// The cells of one layer, from what its inputs bring to the gates.
ValueId cells(const RecurrentOptions& options, const LayerPlace& place, const std::string& name, ValueId x,
              ValueId weight, ValueId bias) {
    Graph& graph = place.builder.graph();
    const std::int64_t rows = graph.value(x).type.shape[0];
    CarriedStates& carried = place.carried;
    CarriedStates::State h{}, c{};
    const std::string of_h = name + ".h", of_c = name + ".c";
    if (carried) h = carried.take(of_h, rows, options.width());
    if (carried && options.lstm) c = carried.take(of_c, rows, options.width());
    const ValueId none = no_value;
    if (!options.lstm) {
        const ops::GruOutputs made = ops::gru(graph, name, x, weight, bias, carried ? h.before : none);
        if (carried) carried.leave(of_h, h, made.h);
        return made.y;
    }
    const ops::LstmOutputs made =
        ops::lstm(graph, name, x, weight, bias, carried ? ops::LstmStates{h.before, c.before} : ops::LstmStates{});
    if (carried) {
        carried.leave(of_h, h, made.last.h);
        carried.leave(of_c, c, made.last.c);
    }
    return made.y;
}

LayerValue build(const RecurrentOptions& options, const LayerPlace& place) {
    Builder& builder = place.builder;
    Graph& graph = builder.graph();
    ValueId y = place.inputs[0].id;
    if (graph.value(y).type.dtype == DType::i32)
        throw ConfigError("numbers of tokens: a layer of type 'embedding' makes vectors of them");
    if (place.inputs[0].flat || graph.value(y).type.shape.rank() != 3)
        throw ConfigError("no sequence, which has the form (steps, width)");
    if (options.directions > 1 && place.carried)
        throw ConfigError("is bidirectional: it looks at what comes after, so that no state can be carried on from "
                          "what came before");
    for (std::int64_t layer = 0; layer < options.layers; ++layer) {
        const auto named = [&](std::string_view what) { return fmt::format("{}_l{}", what, layer); };
        if (layer > 0 && options.dropout > 0 && builder.training())
            y = ops::dropout(graph, builder.path(named("dropout")), y, options.dropout);
        const Shape of_gates{options.directions, options.gates(), options.hidden};
        const auto with_columns = [&](std::int64_t columns) {
            Shape shape = of_gates;
            shape.append(columns);
            return shape;
        };
        const auto bias = [&](std::string_view what) {
            return options.bias ? builder.vector(named(what), of_gates, "bias", 0) : no_value;
        };
        const ValueId of_input = builder.linear_weight(named("weight_ih"), with_columns(graph.value(y).type.shape[2]),
                                                       "recurrent", options.deviation);
        const ValueId of_state =
            builder.matrix(named("weight_hh"), with_columns(options.hidden), "recurrent", options.deviation);
        const ValueId input_bias = bias("bias_ih"), state_bias = bias("bias_hh");
        const ValueId x = builder.linear(named("gates"), y, of_input, input_bias);
        y = cells(options, place, builder.path(named("cells")), x, of_state, state_bias);
    }
    return {y};
}

BuildLayer recurrent(const RecurrentOptions& options) {
    return [options](const LayerPlace& place) { return build(options, place); };
}

} // namespace

BuildLayer read_lstm(const ConfigItem& item) { return recurrent(options_of(item, true)); }

BuildLayer read_gru(const ConfigItem& item) { return recurrent(options_of(item, false)); }

} // namespace tessera::layers
