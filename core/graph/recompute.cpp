// SPDX-License-Identifier: Apache-2.0
// Walks the nodes once: where a backward node reads a value that is not kept, the forward nodes that lead to it from
// kept values are appended again before it.
#include "core/graph/recompute.hpp"

#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <map>

namespace tessera {
namespace {

class Repetition {
public:
    Repetition(Graph& graph, Recompute what) : graph_(graph), what_(what), leaves_layer_(graph.values().size()) {
        for (const Node& node : graph.nodes())
            for (const ValueId input : node.inputs)
                if (node.phase == Phase::forward && producer(input) != nullptr && producer(input)->layer != node.layer)
                    leaves_layer_[static_cast<std::size_t>(input)] = true;
        for (const ValueId id : graph.kept())
            leaves_layer_[static_cast<std::size_t>(id)] = true;
    }

    void run() {
        for (Node node : graph_.nodes()) {
            if (node.phase == Phase::backward)
                for (std::size_t i = 0; i < node.inputs.size(); ++i)
                    if (!node.op->ignores(i)) node.inputs[i] = again(node.inputs[i]);
            nodes_.push_back(std::move(node));
        }
        graph_.replace_nodes(std::move(nodes_));
    }

private:
    const Node* producer(ValueId id) const {
        const std::int32_t index = graph_.value(id).producer;
        return index < 0 ? nullptr : &graph_.nodes()[static_cast<std::size_t>(index)];
    }

    bool is_kept(ValueId id) const {
        const Node* node = producer(id);
        if (node == nullptr || node->phase != Phase::forward || graph_.value(id).accumulated) return true;
        if (what_ == Recompute::selective) return !node->op->is_cheap();
        return node->layer < 0 || leaves_layer_[static_cast<std::size_t>(id)];
    }

    // The value, or its repetition.
    ValueId again(ValueId id) {
        if (is_kept(id)) return id;
        if (const auto found = repeated_.find(id); found != repeated_.end()) return found->second;
        Node node = *producer(id);
        node.phase = Phase::backward;
        node.repeated = true;
        for (ValueId& input : node.inputs)
            input = again(input);
        for (ValueId& output : node.outputs) {
            const std::string name = graph_.value(output).name + ".again";
            const ValueId twin = graph_.computed(name, graph_.value(output).type, Phase::backward);
            repeated_.emplace(output, twin);
            output = twin;
        }
        node.name += ".again";
        nodes_.push_back(std::move(node));
        return repeated_.at(id);
    }

    Graph& graph_;
    Recompute what_;
    std::vector<bool> leaves_layer_; // by ValueId: other layers take it
    std::deque<Node> nodes_;
    std::map<ValueId, ValueId> repeated_;
};

} // namespace

Recompute recompute_named(std::string_view name) {
    if (name == "none") return Recompute::none;
    if (name == "selective") return Recompute::selective;
    if (name == "full") return Recompute::full;
    throw ConfigError(no_such_name("recomputation", name, {"full", "none", "selective"}));
}

void recompute(Graph& graph, Recompute what) {
    if (what != Recompute::none) Repetition(graph, what).run();
}

} // namespace tessera
