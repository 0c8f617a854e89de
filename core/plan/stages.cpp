// SPDX-License-Identifier: Apache-2.0
// Which chunk of a pipeline a node belongs to, and on which stage a weight rests: where the first chunk that uses it
// is.
#include "core/plan/passes.hpp"
#include "core/plan/redistribute.hpp"
#include "core/plan/relay.hpp"
#include "kernels/error.hpp"
#include "parallel/strategies/pipeline_parallel.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <map>
#include <optional>

namespace tessera {
namespace {

// Of the whole pipeline, before the graph is changed. All vectors are by node or by value.
class Chunks {
public:
    Chunks(const Graph& graph, int stages, int chunks)
        : graph_(graph), stages_(stages), chunks_(chunks), chunk_(graph.nodes().size(), -1),
          live_(graph.nodes().size()), weights_(graph.nodes().size()) {
        for (const std::int32_t index : live_nodes(graph))
            live_[static_cast<std::size_t>(index)] = true;
        cut_layers();
        cut_forward();
        cut_backward();
        find_weight_gradients();
    }

    int of(std::size_t node) const { return chunk_[node]; }
    bool is_live(std::size_t node) const { return live_[node]; }
    bool is_for_weights(std::size_t node) const { return weights_[node]; }

    std::vector<ChunkTime> flops() const {
        std::vector<ChunkTime> total(static_cast<std::size_t>(chunks_));
        for (std::size_t i = 0; i < chunk_.size(); ++i) {
            if (chunk_[i] < 0) continue;
            ChunkTime& time = total[static_cast<std::size_t>(chunk_[i])];
            const bool forward = graph_.nodes()[i].phase == Phase::forward;
            (forward ? time.forward : weights_[i] ? time.weights : time.backward) += flops_of(graph_.nodes()[i]);
        }
        return total;
    }

private:
    double flops_of(const Node& node) const {
        std::vector<TensorType> inputs, outputs;
        for (const ValueId id : node.inputs)
            inputs.push_back(graph_.value(id).type);
        for (const ValueId id : node.outputs)
            outputs.push_back(graph_.value(id).type);
        return node.op->flops(inputs, outputs);
    }

    // The live node of forward or backward that makes the value; -1: there is none.
    std::int32_t maker_of(ValueId id) const {
        const std::int32_t index = graph_.value(id).producer;
        return index >= 0 && of_micro_batch(graph_.nodes()[static_cast<std::size_t>(index)]) ? index : -1;
    }

    // What stands behind the last layer (a final norm, the head, the loss) is an item of its own. What stands before
    // the first goes with it.
    void cut_layers() {
        int layers = 0;
        for (const Node& node : graph_.nodes())
            layers = std::max(layers, node.layer + 1);
        if (layers < chunks_) {
            const int each = chunks_ / stages_;
            const std::string chunks = each == 1 ? "" : fmt::format(" with {} chunks each", each);
            throw ConfigError(fmt::format("the {} layers of the model cannot be shared out over {} stages of a "
                                          "pipeline{}",
                                          layers, stages_, chunks));
        }
        std::vector<double> costs(static_cast<std::size_t>(layers) + 1);
        behind_.assign(graph_.nodes().size(), false);
        for (std::size_t i = 0; i < graph_.nodes().size(); ++i) {
            const Node& node = graph_.nodes()[i];
            if (node.phase != Phase::forward) continue;
            for (const ValueId input : node.inputs)
                if (const std::int32_t maker = maker_of(input); maker >= 0)
                    behind_[i] = behind_[i] || behind_[static_cast<std::size_t>(maker)] ||
                                 graph_.nodes()[static_cast<std::size_t>(maker)].layer >= 0;
            const int item = node.layer >= 0 ? node.layer : behind_[i] ? layers : 0;
            if (live_[i]) costs[static_cast<std::size_t>(item)] += flops_of(node);
        }
        chunk_of_item_ = cut_evenly(costs, chunks_);
    }

    int chunk_of_layer(int layer) const { return chunk_of_item_[static_cast<std::size_t>(layer)]; }

    void cut_forward() {
        std::vector<int> first_use(graph_.values().size(), chunks_ - 1);
        for (std::size_t i = graph_.nodes().size(); i-- > 0;) {
            const Node& node = graph_.nodes()[i];
            if (node.phase != Phase::forward || !live_[i]) continue;
            if (node.layer >= 0) {
                chunk_[i] = chunk_of_layer(node.layer);
            } else if (behind_[i]) {
                chunk_[i] = chunk_of_item_.back();
            } else { // where it is first used
                chunk_[i] = chunks_ - 1;
                for (const ValueId output : node.outputs)
                    chunk_[i] = std::min(chunk_[i], first_use[static_cast<std::size_t>(output)]);
                if (chunks_ > stages_ && reads_data(node)) chunk_[i] = 0; // one chunk of a stage reads the data
            }
            for (const ValueId input : node.inputs) {
                int& first = first_use[static_cast<std::size_t>(input)];
                first = std::min(first, chunk_[i]);
            }
        }
    }

    bool reads_data(const Node& node) const {
        return std::ranges::any_of(node.inputs, [&](ValueId id) {
            return graph_.value(id).kind == ValueKind::input && !graph_.value(id).of_step;
        });
    }

    // Outside the layers: as far as the gradient has come. What the forward pass made says nothing of that where there
    // is a gradient: the places of masked tokens come from the first chunk, and their gradient begins the last one's.
    void cut_backward() {
        for (std::size_t i = 0; i < graph_.nodes().size(); ++i) {
            const Node& node = graph_.nodes()[i];
            if (node.phase != Phase::backward || !live_[i]) continue;
            chunk_[i] = node.layer >= 0 ? chunk_of_layer(node.layer)
                                        : first_maker(node, Phase::backward)
                                              .value_or(first_maker(node, Phase::forward).value_or(chunks_ - 1));
        }
    }

    // The first of the chunks in whose pass of this phase an input is made.
    std::optional<int> first_maker(const Node& node, Phase phase) const {
        std::optional<int> first;
        for (const ValueId input : node.inputs)
            if (const std::int32_t maker = maker_of(input); maker >= 0) {
                const auto at = static_cast<std::size_t>(maker);
                if (graph_.nodes()[at].phase == phase) first = std::min(first.value_or(chunks_ - 1), chunk_[at]);
            }
        return first;
    }

    // All of the backward pass that no other chunk waits for. In the first chunk, for which none waits: that what
    // stands before the layers does not wait for.
    void find_weight_gradients() {
        std::vector<bool> awaited(graph_.values().size());
        for (std::size_t i = graph_.nodes().size(); i-- > 0;) {
            const Node& node = graph_.nodes()[i];
            if (node.phase != Phase::backward || !live_[i]) continue;
            weights_[i] =
                std::ranges::none_of(node.outputs, [&](ValueId id) { return awaited[static_cast<std::size_t>(id)]; });
            for (const ValueId input : node.inputs) {
                const std::int32_t maker = maker_of(input);
                if (maker < 0) continue;
                const auto at = static_cast<std::size_t>(maker);
                const bool first = chunk_[i] == 0 && node.layer < 0 && graph_.nodes()[at].layer >= 0;
                if (!weights_[i] || chunk_[at] != chunk_[i] || first) awaited[static_cast<std::size_t>(input)] = true;
            }
        }
    }

    const Graph& graph_;
    int stages_;
    int chunks_; // of all stages
    std::vector<int> chunk_;
    std::vector<bool> live_;
    std::vector<bool> weights_;
    std::vector<bool> behind_; // a layer, of forward nodes
    std::vector<int> chunk_of_item_;
};

class StageCut {
public:
    StageCut(PlacedGraph& placed, const Layout& layout)
        : placed_(placed), graph_(placed.graph), axis_(static_cast<std::size_t>(layout.pipeline_axis)),
          stages_(layout.stages()), chunks_(graph_, stages_, stages_ * layout.chunks_per_stage),
          first_chunk_(graph_.values().size(), nowhere) {
        for (std::size_t i = 0; i < graph_.values().size(); ++i)
            if (graph_.value(static_cast<ValueId>(i)).phase == Phase::forward)
                forward_.emplace(graph_.value(static_cast<ValueId>(i)).name, static_cast<ValueId>(i));
    }

    Stages run() {
        result_.chunk_flops = chunks_.flops();
        find_homes();
        place_leaves();
        const std::deque<Node> nodes = graph_.nodes();
        for (std::size_t i = 0; i < nodes.size(); ++i)
            take(nodes[i], i);
        graph_.replace_nodes(std::move(nodes_));
        return std::move(result_);
    }

private:
    static constexpr int nowhere = std::numeric_limits<int>::max();

    Placement& produced(ValueId id) { return placed_.placements.produced[static_cast<std::size_t>(id)][axis_]; }
    Placement& used(ValueId id) { return placed_.placements.used[static_cast<std::size_t>(id)][axis_]; }
    void set(ValueId id, Placement placement) { produced(id) = used(id) = placement; }

    static bool is_ready(const Value& value) {
        return value.kind == ValueKind::parameter ||
               (value.kind == ValueKind::computed && value.phase == Phase::prepare);
    }

    int home(ValueId id) const {
        const int chunk = first_chunk_[static_cast<std::size_t>(id)];
        return chunk == nowhere ? 0 : chunk % stages_;
    }

    // Of weights, the first chunk that uses them or what is made of them.
    void find_homes() {
        for (std::size_t i = graph_.nodes().size(); i-- > 0;) {
            const Node& node = graph_.nodes()[i];
            if (!chunks_.is_live(i) || node.phase == Phase::update) continue;
            int chunk = chunks_.of(i);
            if (node.phase == Phase::prepare) chunk = first_chunk_of(node.outputs);
            for (const ValueId input : node.inputs) {
                int& first = first_chunk_[static_cast<std::size_t>(input)];
                if (is_ready(graph_.value(input))) first = std::min(first, chunk);
            }
        }
        // All that is made of one weight before the micro-batches is where the weight is.
        for (std::size_t i = 0; i < graph_.nodes().size(); ++i) {
            const Node& node = graph_.nodes()[i];
            if (node.phase != Phase::prepare) continue;
            for (const ValueId output : node.outputs)
                first_chunk_[static_cast<std::size_t>(output)] = weight_of(node);
        }
    }

    int first_chunk_of(const std::vector<ValueId>& ids) const {
        int first = nowhere;
        for (const ValueId id : ids)
            first = std::min(first, first_chunk_[static_cast<std::size_t>(id)]);
        return first;
    }

    // The chunk of the weight that a node of prepare takes; nowhere: it takes none, and every stage runs it.
    int weight_of(const Node& node) const {
        int found = nowhere;
        for (const ValueId input : node.inputs)
            if (is_ready(graph_.value(input))) found = std::min(found, first_chunk_[static_cast<std::size_t>(input)]);
        return found;
    }

    void place_leaves() {
        std::map<std::string_view, int> homes;
        for (const ValueId id : graph_.of_kind(ValueKind::parameter)) {
            homes.emplace(graph_.value(id).name, home(id));
            set(id, Placement::at(home(id)));
        }
        for (const ValueId id : graph_.of_kind(ValueKind::optimizer_state)) {
            const std::string_view name = graph_.value(id).name; // "optimizer.STATE/PARAMETER", or "optimizer.STATE"
            if (const auto home_of = homes.find(name.substr(name.find('/') + 1)); home_of != homes.end())
                set(id, Placement::at(home_of->second));
        }
        for (std::size_t i = 0; i < graph_.values().size(); ++i) {
            const Value& value = graph_.values()[i];
            const auto id = static_cast<ValueId>(i);
            if (is_ready(value) && first_chunk_[i] != nowhere) set(id, Placement::at(home(id)));
            if (!value.accumulated) continue;
            if (value.gradient_of != no_value)
                place_gradient(id);
            else // one stage has it, the others add nothing
                produced(id) = Placement::partial();
        }
    }

    void place_gradient(ValueId id) {
        const Value& gradient = graph_.value(id);
        const int stage = home(gradient.gradient_of);
        if (chunks_.of(static_cast<std::size_t>(gradient.producer)) % stages_ != stage)
            throw InternalError(fmt::format("'{}' is made on another stage than its weight is on", gradient.name));
        set(id, Placement::at(stage));
    }

    void take(Node node, std::size_t index) {
        const int chunk = chunks_.of(index);
        if (chunk >= 0)
            for (ValueId& input : node.inputs)
                input = at_stage(made_again(as_received(input, chunk), chunk), chunk % stages_);
        if (node.phase == Phase::update)
            for (ValueId& input : node.inputs)
                if (const auto whole = wholes_.find(input); whole != wholes_.end()) input = whole->second;
        int stage = chunk < 0 ? -1 : chunk % stages_;
        if (node.phase == Phase::prepare && weight_of(node) != nowhere) stage = weight_of(node) % stages_;
        append(node, chunk, stage, chunks_.is_for_weights(index));
        if (node.phase == Phase::update) add_up(node);
    }

    // What a chunk computes again in the backward pass is for itself. Others have been sent it in the forward one, and
    // keep it: they would wait for a chunk before them that waits for their gradients.
    ValueId as_received(ValueId id, int chunk) const {
        constexpr std::string_view again = ".again"; // see recompute()
        const std::int32_t producer = graph_.value(id).producer;
        if (producer < 0 || !graph_.nodes()[static_cast<std::size_t>(producer)].repeated) return id;
        if (chunks_.of(static_cast<std::size_t>(producer)) == chunk) return id;
        const std::string_view name = graph_.value(id).name;
        const auto found = forward_.find(name.substr(0, name.size() - again.size()));
        if (!name.ends_with(again) || found == forward_.end())
            throw InternalError(fmt::format("'{}' is computed again, but nowhere before", name));
        return found->second;
    }

    // What is made of one weight alone in the micro-batches (gathered, say) is made on each stage that uses it.
    ValueId made_again(ValueId id, int chunk) {
        const std::int32_t producer = graph_.value(id).producer;
        if (producer < 0) return id;
        const auto index = static_cast<std::size_t>(producer);
        Node node = graph_.nodes()[index];
        const bool of_weight = node.inputs.size() == 1 && node.outputs.size() == 1 &&
                               graph_.value(node.inputs[0]).kind == ValueKind::parameter;
        if (!of_weight || chunks_.of(index) < 0 || chunks_.of(index) == chunk) return id;
        const auto [found, is_new] = repeated_.emplace(std::pair(id, chunk), no_value);
        if (is_new) {
            found->second = twin_of(id, fmt::format("{}.in_chunk_{}", graph_.value(id).name, chunk), node.phase);
            node.name = graph_.value(found->second).name;
            node.inputs[0] = at_stage(node.inputs[0], chunk % stages_);
            node.outputs[0] = found->second;
            append(std::move(node), chunk, chunk % stages_);
        }
        return found->second;
    }

    // A weight as the stage sees it.
    ValueId at_stage(ValueId id, int stage) {
        if (!is_ready(graph_.value(id)) || first_chunk_[static_cast<std::size_t>(id)] == nowhere || home(id) == stage)
            return id;
        const auto [found, is_new] = relays_.emplace(std::pair(id, stage), no_value);
        if (is_new) {
            found->second = twin_of(id, fmt::format("{}.at_stage_{}", graph_.value(id).name, stage), Phase::prepare);
            set(found->second, Placement::at(stage));
            append({std::make_shared<Relay>(static_cast<int>(axis_), home(id), stage),
                    graph_.value(found->second).name,
                    Phase::prepare,
                    {id},
                    {found->second}});
        }
        return found->second;
    }

    // A sum over tensors of several stages is made whole.
    void add_up(const Node& node) {
        std::vector<TensorType> types;
        std::vector<Placement> inputs;
        for (const ValueId input : node.inputs) {
            types.push_back(graph_.value(input).type);
            inputs.push_back(used(input));
        }
        if (std::ranges::all_of(inputs, [](Placement p) { return p == Placement::replicate(); })) return;
        const auto outputs = node.op->placed(types, inputs);
        if (!outputs)
            throw InternalError(
                fmt::format("{} '{}' cannot run on the stages of a pipeline", node.op->name(), node.name));
        for (std::size_t i = 0; i < node.outputs.size(); ++i) {
            const ValueId id = node.outputs[i];
            set(id, (*outputs)[i]);
            if ((*outputs)[i] != Placement::partial()) continue;
            auto op = std::make_shared<Redistribute>(static_cast<int>(axis_), stages_, Placement::partial(),
                                                     Placement::replicate());
            const ValueId whole = twin_of(id, fmt::format("{}.over_stages", graph_.value(id).name), Phase::update);
            set(whole, Placement::replicate());
            wholes_.emplace(id, whole);
            append({std::move(op), graph_.value(whole).name, Phase::update, {id}, {whole}});
        }
    }

    ValueId twin_of(ValueId id, std::string name, Phase phase) {
        const ValueId twin = graph_.computed(std::move(name), graph_.value(id).type, phase);
        const auto of = static_cast<std::size_t>(id);
        placed_.placements.produced.push_back(Placements(placed_.placements.produced[of]));
        placed_.placements.used.push_back(Placements(placed_.placements.used[of]));
        first_chunk_.push_back(nowhere);
        return twin;
    }

    void append(Node node, int chunk = -1, int stage = -1, bool weights = false) {
        nodes_.push_back(std::move(node));
        result_.chunk.push_back(chunk);
        result_.stage.push_back(stage);
        result_.weights.push_back(weights);
    }

    PlacedGraph& placed_;
    Graph& graph_;
    std::size_t axis_;
    int stages_;
    Chunks chunks_;
    std::vector<int> first_chunk_; // by value, of weights
    std::deque<Node> nodes_;
    Stages result_;
    std::map<std::string, ValueId, std::less<>> forward_; // values by name
    std::map<std::pair<ValueId, int>, ValueId> relays_;   // by value and stage
    std::map<std::pair<ValueId, int>, ValueId> repeated_; // by value and chunk
    std::map<ValueId, ValueId> wholes_;
};

} // namespace

Stages cut_stages(PlacedGraph& placed, const Layout& layout) {
    if (layout.stages() > 1) return StageCut(placed, layout).run();
    Stages all;
    for (const Node& node : placed.graph.nodes()) {
        const bool each = of_micro_batch(node);
        all.chunk.push_back(each ? 0 : -1);
        all.stage.push_back(each ? 0 : -1);
        all.weights.push_back(false);
    }
    return all;
}

} // namespace tessera
