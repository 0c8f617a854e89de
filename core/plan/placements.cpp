// SPDX-License-Identifier: Apache-2.0
// Placement propagation: strategies say where parameters and inputs live, ops say what follows for their outputs.
#include "core/plan/passes.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {
namespace {

// One axis of the mesh; placements by ValueId.
class AxisPlacements {
public:
    AxisPlacements(const Graph& graph, const Strategy& strategy)
        : graph_(graph), strategy_(strategy), produced_(graph.values().size()), used_(graph.values().size()) {
        for (std::size_t i = 0; i < graph.values().size(); ++i)
            if (graph.values()[i].kind != ValueKind::computed) set(static_cast<ValueId>(i), of_leaf(graph.values()[i]));
        for (const Node& node : graph.nodes())
            place(node);
    }

    Placement produced(std::size_t value) const { return produced_[value]; }
    Placement used(std::size_t value) const { return used_[value]; }

private:
    ParameterPlacement of_parameter(const Value& value) const {
        return strategy_.place({value.name, value.type.shape, value.parameter->role, value.parameter->layer});
    }

    Placement of_leaf(const Value& value) const {
        switch (value.kind) {
        case ValueKind::input: // what a micro-batch does not bring along is the same everywhere
            if (value.type.shape.rank() == 0 || value.phase == Phase::update) return Placement::replicate();
            return strategy_.activation();
        case ValueKind::optimizer_state:
            return value.parameter ? of_parameter(value).state : Placement::replicate();
        default:
            return of_parameter(value).use;
        }
    }

    void set(ValueId id, Placement placement) {
        const Value& value = graph_.value(id);
        produced_[static_cast<std::size_t>(id)] = placement;
        used_[static_cast<std::size_t>(id)] = value.accumulated ? wanted(value) : placement;
    }

    Placement wanted(const Value& value) const {
        return value.gradient_of == no_value ? Placement::replicate()
                                             : of_parameter(graph_.value(value.gradient_of)).gradient;
    }

    void place(const Node& node) {
        std::vector<TensorType> types;
        std::vector<Placement> inputs;
        for (const ValueId input : node.inputs) {
            types.push_back(graph_.value(input).type);
            inputs.push_back(used_[static_cast<std::size_t>(input)]);
        }
        const bool whole = std::all_of(inputs.begin(), inputs.end(),
                                       [](Placement placement) { return placement == Placement::replicate(); });
        std::vector<Placement> outputs(node.outputs.size(), Placement::replicate());
        if (!whole) outputs = placed(node, types, inputs);
        for (std::size_t i = 0; i < node.outputs.size(); ++i)
            set(node.outputs[i], outputs.at(i));
    }

    std::vector<Placement> placed(const Node& node, const std::vector<TensorType>& types,
                                  const std::vector<Placement>& inputs) const {
        if (auto outputs = node.op->placed(types, inputs)) return *std::move(outputs);
        constexpr std::size_t most = 8; // of an update's inputs, say
        std::vector<std::string> found;
        for (std::size_t i = 0; i < std::min(inputs.size(), most); ++i)
            found.push_back(fmt::format("{} {}", graph_.value(node.inputs[i]).name, inputs[i].text()));
        if (inputs.size() > most) found.push_back(fmt::format("and {} more", inputs.size() - most));
        throw ConfigError(fmt::format("{} '{}' cannot run on mesh axis '{}' with its inputs placed so: {}",
                                      node.op->name(), node.name, strategy_.axis(), fmt::join(found, ", ")));
    }

    const Graph& graph_;
    const Strategy& strategy_;
    std::vector<Placement> produced_;
    std::vector<Placement> used_;
};

} // namespace

ValuePlacements propagate_placements(const Graph& graph, const Layout& layout) {
    ValuePlacements placements;
    placements.produced.resize(graph.values().size());
    placements.used.resize(graph.values().size());
    for (int axis = 0; axis < layout.mesh.axis_count(); ++axis) {
        const bool alone = layout.mesh.axis(axis).size == 1; // nothing to say: all is where it is
        const auto placed =
            alone ? std::nullopt
                  : std::make_optional<AxisPlacements>(graph, *layout.strategies.at(static_cast<std::size_t>(axis)));
        for (std::size_t value = 0; value < graph.values().size(); ++value) {
            placements.produced[value].push_back(placed ? placed->produced(value) : Placement::replicate());
            placements.used[value].push_back(placed ? placed->used(value) : Placement::replicate());
        }
    }
    return placements;
}

} // namespace tessera
