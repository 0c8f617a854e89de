// SPDX-License-Identifier: Apache-2.0
// Reverse-mode differentiation: the gradient of a graph is more graph.
#include "core/graph/graph.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

// Which values a parameter that is trained flows into: only those need a gradient.
std::vector<bool> depends_on_parameters(const Graph& graph) {
    std::vector<bool> depends(graph.values().size());
    for (const ValueId id : graph.trained())
        depends[static_cast<std::size_t>(id)] = true;
    for (const Node& node : graph.nodes())
        for (const ValueId input : node.inputs)
            if (depends[static_cast<std::size_t>(input)])
                for (const ValueId output : node.outputs)
                    depends[static_cast<std::size_t>(output)] = true;
    return depends;
}

// Ops give the gradients of all their inputs: those of frozen weights are wanted by nobody.
void drop_unused(Graph& graph) {
    std::vector<bool> wanted(graph.values().size());
    for (std::size_t i = 0; i < wanted.size(); ++i)
        wanted[i] = graph.values()[i].accumulated;
    for (const ValueId id : graph.kept())
        wanted[static_cast<std::size_t>(id)] = true;
    std::deque<Node> nodes;
    for (auto node = graph.nodes().rbegin(); node != graph.nodes().rend(); ++node) {
        bool used = node->phase != Phase::backward;
        for (const ValueId output : node->outputs)
            used = used || wanted[static_cast<std::size_t>(output)];
        if (!used) continue;
        for (const ValueId input : node->inputs)
            wanted[static_cast<std::size_t>(input)] = true;
        nodes.push_front(*node);
    }
    graph.replace_nodes(std::move(nodes));
}

} // namespace

std::vector<ValueId> differentiate(Graph& graph, ValueId loss, std::span<const LossBeside> beside) {
    const Graph::PhaseGuard guard(graph, Phase::backward);
    const std::vector<bool> depends = depends_on_parameters(graph);
    std::vector<ValueId> gradient_of(graph.values().size(), no_value);
    for (const LossBeside& other : beside)
        gradient_of[static_cast<std::size_t>(other.value)] = other.gradient;
    const std::int32_t last = graph.value(loss).producer;

    for (std::int32_t index = last; index >= 0; --index) {
        const Node& node = graph.nodes()[static_cast<std::size_t>(index)];
        std::vector<ValueId> from_outputs;
        bool reached = index == last;
        for (const ValueId output : node.outputs) {
            from_outputs.push_back(gradient_of[static_cast<std::size_t>(output)]);
            reached = reached || from_outputs.back() != no_value;
        }
        if (!reached || !depends[static_cast<std::size_t>(node.outputs[0])]) continue;
        const Graph::LayerGuard layer(graph, node.layer);
        const std::vector<ValueId> to_inputs = node.op->gradient(graph, node, from_outputs);
        for (std::size_t i = 0; i < node.inputs.size(); ++i) {
            const auto input = static_cast<std::size_t>(node.inputs[i]);
            if (to_inputs[i] == no_value || !depends[input]) continue;
            ValueId& gradient = gradient_of[input];
            gradient = gradient == no_value
                           ? to_inputs[i]
                           : ops::add(graph, fmt::format("{}.gradient_sum", graph.value(node.inputs[i]).name), gradient,
                                      to_inputs[i]);
        }
    }

    std::vector<ValueId> gradients;
    for (const ValueId parameter : graph.trained()) {
        const ValueId gradient = gradient_of[static_cast<std::size_t>(parameter)];
        if (gradient == no_value)
            throw InternalError(fmt::format("the loss does not depend on '{}'", graph.value(parameter).name));
        graph.accumulate(gradient, parameter);
        gradients.push_back(gradient);
    }
    graph.accumulate(loss);
    if (gradients.size() < graph.of_kind(ValueKind::parameter).size()) drop_unused(graph);
    return gradients;
}

} // namespace tessera
