// SPDX-License-Identifier: Apache-2.0
// A value that a chunk of a pipeline makes for one further on goes by way of those between, each of which hands on a
// copy, where it cannot go straight: two of its chunks are on one stage, where a value has one place, or its maker's
// frame will be gone.
#include "core/plan/passes.hpp"
#include "kernels/copy.hpp"

#include <fmt/format.h>
#include <map>
#include <set>

namespace tessera {
namespace {

class Copied final : public Op { // x -> x
public:
    std::string_view name() const override { return "copied"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0]}; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::cast(s, a.inputs[0], a.outputs[0]); }, stream);
    }
};

class PassOn {
public:
    PassOn(PlacedGraph& placed, int ranks, Stages& stages)
        : placed_(placed), graph_(placed.graph), ranks_(ranks), stages_(stages), chunks_(graph_.values().size()) {}

    void run() {
        const std::deque<Node> nodes = graph_.nodes();
        for (std::size_t i = 0; i < nodes.size(); ++i) {
            if (!of_micro_batch(nodes[i])) continue;
            trains_ = trains_ || nodes[i].phase == Phase::backward;
            for (const std::vector<ValueId>& ids : {nodes[i].inputs, nodes[i].outputs})
                for (const ValueId id : ids)
                    chunks_[static_cast<std::size_t>(id)].insert(stages_.chunk[i]);
        }
        for (std::size_t i = 0; i < nodes.size(); ++i) {
            Node node = nodes[i];
            if (of_micro_batch(node))
                for (ValueId& input : node.inputs)
                    input = in_chunk(input, stages_.chunk[i]);
            append(std::move(node), stages_.chunk[i], stages_.stage[i], stages_.weights[i]);
        }
        graph_.replace_nodes(std::move(nodes_));
        cut_.chunk_flops = std::move(stages_.chunk_flops);
        stages_ = std::move(cut_);
    }

private:
    // What stands for the value there: itself where it was made and one further on, else a copy of the chunk before.
    ValueId in_chunk(ValueId id, int chunk) {
        const std::int32_t producer = graph_.value(id).producer;
        if (producer < 0) return id;
        const auto maker = static_cast<std::size_t>(producer);
        const Phase phase = graph_.value(id).phase;
        if (phase != Phase::forward && phase != Phase::backward) return id;
        const int from = stages_.chunk[maker], step = phase == Phase::forward ? 1 : -1;
        if ((chunk - from) * step <= 1 || goes_straight(id)) return id;
        const int before = chunk - step;
        const auto [found, is_new] = copies_.emplace(std::pair(id, before), no_value);
        if (!is_new) return found->second;
        const ValueId input = in_chunk(id, before);
        const ValueId copy =
            graph_.computed(fmt::format("{}.of_chunk_{}", graph_.value(id).name, before), graph_.value(id).type, phase);
        const auto of = static_cast<std::size_t>(id);
        placed_.placements.produced.push_back(Placements(placed_.placements.produced[of]));
        placed_.placements.used.push_back(Placements(placed_.placements.used[of]));
        append({std::make_shared<Copied>(), graph_.value(copy).name, phase, {input}, {copy}}, before, before % ranks_,
               false);
        return copies_[{id, before}] = copy;
    }

    bool goes_straight(ValueId id) const {
        std::set<int> stages;
        for (const int chunk : chunks_[static_cast<std::size_t>(id)])
            if (!stages.insert(chunk % ranks_).second) return false;
        return trains_; // until the backward part a frame keeps what others want
    }

    void append(Node node, int chunk, int stage, bool weights) {
        nodes_.push_back(std::move(node));
        cut_.chunk.push_back(chunk);
        cut_.stage.push_back(stage);
        cut_.weights.push_back(weights);
    }

    PlacedGraph& placed_;
    Graph& graph_;
    int ranks_;
    Stages& stages_;
    std::vector<std::set<int>> chunks_; // that make or take a value
    bool trains_ = false;
    std::deque<Node> nodes_;
    Stages cut_;
    std::map<std::pair<ValueId, int>, ValueId> copies_; // by value and chunk
};

} // namespace

void pass_values_on(PlacedGraph& placed, const Layout& layout, Stages& stages) {
    if (layout.stages() > 1) PassOn(placed, layout.stages(), stages).run();
}

} // namespace tessera
