// SPDX-License-Identifier: Apache-2.0
// Weights that rest in parts and are gathered where their layer computes (ZeRO 3) travel while the layers before it do.
#include "core/plan/passes.hpp"

#include <algorithm>

namespace tessera {
namespace {

// Of weights that are there before the first micro-batch.
bool gathers_weights(const Graph& graph, const Layout& layout, std::int32_t index) {
    const Node& node = graph.nodes()[static_cast<std::size_t>(index)];
    const auto transfer = node.op->transfer();
    if (!transfer || transfer->axis != layout.data_axis || transfer->collective != Collective::all_gather) return false;
    const Value& part = graph.value(node.inputs[0]);
    return part.producer < 0 || part.phase == Phase::prepare;
}

class PartAhead {
public:
    PartAhead(const Graph& graph, const Layout& layout, std::int64_t first_call, Order& order)
        : graph_(graph), layout_(layout), first_call_(first_call), order_(order) {}

    // The gatherings of a layer begin together, when the layer so many before it begins, and those of the first ones
    // with the part. They end when their layer begins, before others are begun there.
    void run(std::span<const std::int32_t> nodes) {
        find_layers(nodes);
        const auto ahead = static_cast<std::size_t>(layout_.prefetch);
        if (!layers_.empty()) begin(layers_.front());
        std::size_t layer = 0;
        for (std::size_t i = 0; i < nodes.size(); ++i) {
            if (layer < layers_.size() && layers_[layer].first == i) {
                end(layers_[layer]);
                for (std::size_t next = layer == 0 ? 1 : layer + ahead; next <= layer + ahead; ++next)
                    if (next < layers_.size()) begin(layers_[next]);
                ++layer;
            }
            if (!gathers_weights(graph_, layout_, nodes[i])) append(nodes[i]);
        }
    }

private:
    struct Layer {
        int number;
        std::size_t first; // of its gatherings, among the part's nodes
        std::vector<std::int32_t> gatherings{};
        std::vector<std::size_t> places{}; // in the new order
    };

    void find_layers(std::span<const std::int32_t> nodes) {
        for (std::size_t i = 0; i < nodes.size(); ++i) {
            if (!gathers_weights(graph_, layout_, nodes[i])) continue;
            const int number = graph_.nodes()[static_cast<std::size_t>(nodes[i])].layer;
            if (layers_.empty() || layers_.back().number != number) layers_.push_back({number, i});
            layers_.back().gatherings.push_back(nodes[i]);
        }
    }

    void append(std::int32_t node) {
        order_.nodes.push_back(node);
        order_.ahead_of.push_back(-1);
    }

    void begin(Layer& layer) {
        for (const std::int32_t node : layer.gatherings) {
            layer.places.push_back(order_.nodes.size());
            append(node);
        }
    }

    void end(const Layer& layer) { // before the next call
        for (const std::size_t place : layer.places)
            order_.ahead_of[place] = static_cast<std::int64_t>(order_.nodes.size()) - first_call_;
    }

    const Graph& graph_;
    const Layout& layout_;
    std::int64_t first_call_; // of the phase, in the order of all
    Order& order_;
    std::vector<Layer> layers_;
};

} // namespace

Order gather_ahead(const Graph& graph, const Layout& layout, const std::vector<Part>& parts,
                   const std::vector<std::int32_t>& nodes) {
    Order order;
    if (layout.prefetch == 0) return {nodes, std::vector<std::int64_t>(nodes.size(), -1)};
    const auto append = [&](std::int64_t until) {
        for (auto i = order.nodes.size(); i < static_cast<std::size_t>(until); ++i) {
            order.nodes.push_back(nodes[i]);
            order.ahead_of.push_back(-1);
        }
    };
    for (const Part& part : parts) {
        const auto of_phase = std::ranges::find_if(nodes, [&](std::int32_t index) {
            return graph.nodes()[static_cast<std::size_t>(index)].phase >= part.phase;
        });
        const std::int64_t first_call = of_phase - nodes.begin();
        append(first_call + part.calls.begin);
        PartAhead(graph, layout, first_call, order)
            .run(std::span(nodes).subspan(static_cast<std::size_t>(first_call + part.calls.begin),
                                          static_cast<std::size_t>(part.calls.size())));
    }
    append(static_cast<std::int64_t>(nodes.size()));
    return order;
}

} // namespace tessera
