// SPDX-License-Identifier: Apache-2.0
// Placement propagation, one mesh axis at a time: strategies say where parameters and inputs live, ops say what follows
// for their outputs; where an op wants an input elsewhere, the one collective that leads there is inserted.
#include "core/plan/passes.hpp"
#include "core/plan/redistribute.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <map>
#include <optional>

namespace tessera {
namespace {

constexpr double impossible = std::numeric_limits<double>::infinity();

class AxisPass {
public:
    AxisPass(const Layout& layout, int axis, PlacedGraph& placed)
        : layout_(layout), axis_(axis), ranks_(layout.mesh.axis(axis).size),
          strategy_(*layout.strategies.at(static_cast<std::size_t>(axis))), graph_(placed.graph),
          placements_(placed.placements) {}

    void run() {
        for (std::size_t i = 0; i < graph_.values().size(); ++i) {
            const Value& value = graph_.values()[i];
            if (value.kind != ValueKind::computed) set(static_cast<ValueId>(i), of_leaf(value));
            if (is_shared_input(value)) share_input(static_cast<ValueId>(i));
            shares_data_ = shares_data_ || (is_read(value) && of_input(value) != Placement::replicate());
            if (value.kind == ValueKind::parameter) stays_in_use_ = stays_in_use_ && of_parameter(value).stays_in_use;
        }
        find_transferred();
        find_uses();
        for (Node node : graph_.nodes()) {
            for (ValueId& input : node.inputs)
                if (const auto found = parts_.find(input); found != parts_.end()) input = found->second;
            place(std::move(node));
        }
        graph_.replace_nodes(std::move(nodes_));
    }

private:
    static int dim_of(Placement placement) { return placement.kind == Placement::Kind::shard ? placement.value : -1; }

    ParameterPlacement of_parameter(const Value& value) const {
        return strategy_.place({value.name, value.type.shape, value.parameter->role, value.parameter->layer});
    }

    Placement of_input(const Value& value) const { return strategy_.input({value.name, value.type.shape, value.role}); }

    Placement of_leaf(const Value& value) const {
        switch (value.kind) {
        case ValueKind::input: // what a micro-batch does not bring along is the same everywhere
            return is_of_samples(value) && of_data_ranks() ? of_input(value) : Placement::replicate();
        case ValueKind::optimizer_state:
            return value.parameter ? of_parameter(value).state : Placement::replicate();
        default:
            return of_parameter(value).rest;
        }
    }

    // Of the samples of a micro-batch, dim 0 counting them: read from the data, or a function of step and sample.
    static bool is_of_samples(const Value& value) {
        return value.kind == ValueKind::input && value.type.shape.rank() > 0 &&
               (value.phase == Phase::forward || value.phase == Phase::backward);
    }
    static bool is_read(const Value& value) { return is_of_samples(value) && !value.of_step; }

    // Of what the ranks of the axis compute in a micro-batch, each has its own.
    bool of_data_ranks() const { return layout_.shares_micro_batches(axis_); }

    // All ranks of an axis but data ranks read the same samples. Where they share them out, each takes its part.
    bool is_shared_input(const Value& value) const {
        return is_read(value) && !of_data_ranks() && of_input(value) != Placement::replicate();
    }

    void share_input(ValueId id) { parts_.emplace(id, moved(id, of_input(graph_.value(id)), Phase::forward)); }

    // A weight that is there before the first micro-batch.
    static bool is_ready(const Value& value) {
        return value.kind == ValueKind::parameter ||
               (value.kind == ValueKind::computed && value.phase == Phase::prepare);
    }

    // What outer axes have added: weights gathered where a layer computes, and parts that are scattered before they are
    // accumulated.
    void find_transferred() {
        for (const Value& value : graph_.values())
            weights_.push_back(is_ready(value));
        for (const Node& node : graph_.nodes()) {
            if (!node.op->transfer() || is_within_op(node.op->transfer()->collective)) continue;
            if (is_weight(node.inputs[0])) weights_[static_cast<std::size_t>(node.outputs[0])] = true;
            if (graph_.value(node.outputs[0]).accumulated) sums_.emplace(node.inputs[0], node.outputs[0]);
        }
    }

    // Where the strategy wants parameters in use, and what is made of them by copies.
    void find_uses() {
        for (const Value& value : graph_.values())
            uses_.push_back(value.kind == ValueKind::parameter ? of_parameter(value).use : Placement::replicate());
        for (const Node& node : graph_.nodes()) {
            const ValueId copy = node.outputs.empty() ? no_value : node.outputs[0];
            if (copy != no_value && is_weight(copy) && !node.inputs.empty() && is_weight(node.inputs[0]) &&
                graph_.value(copy).type.shape == graph_.value(node.inputs[0]).type.shape)
                uses_[static_cast<std::size_t>(copy)] = uses_[static_cast<std::size_t>(node.inputs[0])];
        }
    }

    // The accumulated value that is, or is made of, this one alone; null: there is none.
    const Value* sum_of(ValueId id) const {
        const auto found = sums_.find(id);
        const Value& value = graph_.value(found == sums_.end() ? id : found->second);
        return value.accumulated ? &value : nullptr;
    }

    bool is_weight(ValueId id) const {
        const auto index = static_cast<std::size_t>(id);
        return index < weights_.size() && weights_[index]; // what this pass adds is led nowhere else
    }

    Placement& produced(ValueId id) { return placements_.produced[static_cast<std::size_t>(id)][at()]; }
    Placement& used(ValueId id) { return placements_.used[static_cast<std::size_t>(id)][at()]; }
    std::size_t at() const { return static_cast<std::size_t>(axis_); }

    void set(ValueId id, Placement placement) { produced(id) = used(id) = placement; }

    Placement wanted(const Value& value) const {
        return value.gradient_of == no_value ? Placement::replicate()
                                             : of_parameter(graph_.value(value.gradient_of)).gradient;
    }

    std::vector<TensorType> types_of(const std::vector<ValueId>& ids) const {
        std::vector<TensorType> types;
        for (const ValueId id : ids)
            types.push_back(graph_.value(id).type);
        return types;
    }

    void place(Node node) {
        const std::vector<TensorType> types = types_of(node.inputs);
        std::vector<Placement> inputs;
        for (std::size_t i = 0; i < node.inputs.size(); ++i) {
            inputs.push_back(used(node.inputs[i]));
            if (node.op->ignores(i) && inputs[i] == Placement::flat()) inputs[i] = Placement::replicate(); // in use
        }
        const bool whole = std::ranges::all_of(inputs, [](Placement p) { return p == Placement::replicate(); });
        const std::vector<Placement> all_whole(node.outputs.size());
        if (whole && may_stay(node, all_whole)) return append(std::move(node), all_whole);
        if (auto outputs = placed(*node.op, types, inputs, axis_);
            outputs && may_stay(node, *outputs) && !is_put_together_first(node))
            return append(std::move(node), *std::move(outputs));
        if (place_around_ring(node, types, inputs) || place_with_halo(node, types, inputs)) return;
        if (!of_data_ranks()) // which have each micro-batch whole
            if (const auto halves = node.op->halves(types, inputs, ranks_)) return place_halves(node, types, *halves);
        const std::optional<PlacementRule> found = cheapest_rule(node, types, inputs);
        if (!found && !whole) refuse(node, inputs);
        PlacementRule rule = found ? *found : PlacementRule{inputs, all_whole};
        for (std::size_t i = 0; i < inputs.size(); ++i)
            if (inputs[i] != rule.inputs[i])
                node.inputs[i] = moved(node.inputs[i], rule.inputs[i], node.phase, node.layer);
        append(std::move(node), std::move(rule.outputs));
    }

    // Of a dim that an outer axis gathers or cuts, and this one cuts, too: what this one has cut is put together
    // before, and what the outer one has cut is cut again after. An exchange deals out parts of parts, where that is
    // possible.
    bool is_put_together_first(const Node& node) const {
        const auto transfer = node.op->transfer();
        if (!transfer || is_within_op(transfer->collective) || transfer->axis >= axis_) return false;
        if (transfer->collective == Collective::all_to_all) return false;
        const Placement here = used_on(node.inputs[0], axis_);
        const bool same_dim = here.kind == Placement::Kind::shard && (here == used_on(node.inputs[0], transfer->axis) ||
                                                                      here == used_on(node.outputs[0], transfer->axis));
        return same_dim && cost_of_moving(node.inputs[0], here, Placement::replicate(), node.phase) < impossible;
    }

    Placement used_on(ValueId id, int axis) const {
        return placements_.used[static_cast<std::size_t>(id)][static_cast<std::size_t>(axis)];
    }

    // Where an op's outputs are on an axis; nothing where it cannot run so.
    std::optional<std::vector<Placement>> placed(const Op& op, const std::vector<TensorType>& types,
                                                 const std::vector<Placement>& inputs, int axis) const {
        if (layout_.shares_micro_batches(axis))
            for (PlacementRule& rule : op.micro_batch_rules(types))
                if (rule.inputs == inputs) return std::move(rule.outputs);
        return op.placed(types, inputs);
    }

    bool place_around_ring(Node node, const std::vector<TensorType>& types, const std::vector<Placement>& inputs) {
        if (!strategy_.zigzag()) return false;
        const auto ring = node.op->around_ring(axis_, ranks_, types, inputs);
        if (!ring) return false;
        node.op = ring->op;
        append(std::move(node), ring->outputs);
        return true;
    }

    bool place_with_halo(Node node, const std::vector<TensorType>& types, const std::vector<Placement>& inputs) {
        if (!strategy_.exchanges_halos()) return false;
        const auto halo = node.op->with_halo(axis_, ranks_, types, inputs);
        if (!halo) return false;
        for (std::size_t i = 0; i < inputs.size(); ++i)
            if (cost_of_moving(node.inputs[i], inputs[i], halo->inputs[i], node.phase) == impossible) return false;
        for (std::size_t i = 0; i < inputs.size(); ++i)
            if (inputs[i] != halo->inputs[i])
                node.inputs[i] = moved(node.inputs[i], halo->inputs[i], node.phase, node.layer);
        node.op = halo->op;
        append(std::move(node), halo->outputs);
        return true;
    }

    // What is accumulated where the update does not want it would be led there in every micro-batch; and what an outer
    // axis scatters first could not be cut any more.
    bool may_stay(const Node& node, const std::vector<Placement>& outputs) const {
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            const Value* sum = sum_of(node.outputs[i]);
            if (sum == nullptr || outputs[i] == wanted(*sum)) continue;
            if (outputs[i].kind == Placement::Kind::shard || wanted(*sum).kind == Placement::Kind::shard) return false;
        }
        return true;
    }

    void place_halves(const Node& node, const std::vector<TensorType>& types, const Op::Halves& halves) {
        const TensorType between = halves.first->infer(types).at(0);
        const ValueId shared = new_value(node.name + ".shards", between, node.phase);
        Node second{halves.second, node.name, node.phase, node.inputs, node.outputs, node.layer};
        second.inputs.push_back(shared);
        place({halves.first, node.name + ".shards", node.phase, node.inputs, {shared}, node.layer});
        place(std::move(second));
    }

    // The rule to which the inputs are led by the fewest bytes; of equals the first. None: no rule can be followed.
    std::optional<PlacementRule> cheapest_rule(const Node& node, const std::vector<TensorType>& types,
                                               const std::vector<Placement>& inputs) const {
        std::vector<PlacementRule> rules = node.op->placements(types);
        if (of_data_ranks())
            for (PlacementRule& rule : node.op->micro_batch_rules(types))
                rules.push_back(std::move(rule));
        rules.insert(rules.begin(),
                     {std::vector<Placement>(inputs.size()), std::vector<Placement>(node.outputs.size())});
        const PlacementRule* best = nullptr;
        double least = impossible;
        for (const PlacementRule& rule : rules) {
            double cost = 0;
            for (std::size_t i = 0; i < inputs.size(); ++i)
                cost += cost_of_moving(node.inputs[i], inputs[i], rule.inputs[i], node.phase);
            for (std::size_t i = 0; i < node.outputs.size(); ++i)
                cost += cost_of_accumulating(node.outputs[i], rule.outputs[i]);
            if (cost < least) {
                least = cost;
                best = &rule;
            }
        }
        if (best == nullptr) return std::nullopt;
        return *best;
    }

    // In bytes of the whole value, without the factor (ranks - 1) / ranks that all have.
    double cost_of_moving(ValueId id, Placement from, Placement to, Phase phase) const {
        using Kind = Placement::Kind;
        if (from == to || there_already(id, to, phase) != no_value) return 0;
        const Value& value = graph_.value(id);
        if (is_weight(id) && from == Placement::flat() && to == Placement::replicate())
            return static_cast<double>(value.type.bytes());
        if (is_weight(id) && from == Placement::replicate() && to == uses_[static_cast<std::size_t>(id)]) return 1e-3;
        // Weights stay where their strategy has them, and of a value each data rank has another one.
        if (is_weight(id)) return impossible;
        if (from.kind == Kind::replicate && to.kind == Kind::shard)
            return to.value < value.type.shape.rank() ? 1e-3 : impossible;
        const bool of_step = value.phase == Phase::update || (phase == Phase::update && value.accumulated);
        if (value.kind != ValueKind::computed || (of_data_ranks() && !of_step)) return impossible;
        const auto bytes = static_cast<double>(value.type.bytes());
        if (from.kind == Kind::partial && to.kind == Kind::replicate) return 2 * bytes;
        if (from.kind == Kind::partial && to == strategy_.activation()) return bytes;
        if (from.kind == Kind::shard && to.kind == Kind::replicate) return bytes;
        if (from.kind == Kind::flat && to.kind == Kind::replicate) return bytes;
        if (from.kind == Kind::shard && to.kind == Kind::shard && !strategy_.zigzag() && is_even(id, from.value) &&
            is_even(id, to.value))
            return bytes / ranks_ * cost_of_exchange(to);
        return impossible;
    }

    // Whether the ranks of the axis have, or would have, equal parts of what outer axes leave of the dim.
    bool is_even(ValueId id, int dim) const {
        std::int64_t parts = ranks_;
        for (int axis = 0; axis < axis_; ++axis)
            if (!layout_.shares_micro_batches(axis) &&
                placements_.used[static_cast<std::size_t>(id)][static_cast<std::size_t>(axis)] == Placement::shard(dim))
                parts *= layout_.mesh.axis(axis).size;
        return graph_.value(id).type.shape[dim] % parts == 0;
    }

    // Where the data are not shared out, a product wants the whole soon: exchanged for another cut, it would be
    // gathered from there.
    double cost_of_exchange(Placement to) const {
        if (to == strategy_.activation()) return 1;
        return shares_data_ ? 1.5 : ranks_;
    }

    // What an accumulated value costs that the update wants elsewhere: a sum little, since it is taken once a step. But
    // a weight's gradient is never made whole on ranks that update a part of it.
    double cost_of_accumulating(ValueId id, Placement at) const {
        const Value* sum = sum_of(id);
        if (sum == nullptr || at == wanted(*sum)) return 0;
        const bool part = wanted(*sum).kind == Placement::Kind::shard; // scattered in every micro-batch
        if (part && at != Placement::partial()) return impossible;
        return (at == Placement::partial() && !part ? 1e-3 : 1) * static_cast<double>(sum->type.bytes());
    }

    [[noreturn]] void refuse(const Node& node, const std::vector<Placement>& inputs) const {
        constexpr std::size_t most = 8; // of an update's inputs, say
        std::vector<std::string> found;
        for (std::size_t i = 0; i < std::min(inputs.size(), most); ++i)
            found.push_back(fmt::format("{} {}", graph_.value(node.inputs[i]).name, inputs[i].text()));
        if (inputs.size() > most) found.push_back(fmt::format("and {} more", inputs.size() - most));
        throw ConfigError(fmt::format("{} '{}' cannot run on mesh axis '{}' with its inputs placed so: {}",
                                      node.op->name(), node.name, strategy_.axis(), fmt::join(found, ", ")));
    }

    // The value placed so, for nodes of `phase`: what is led there in the forward pass is not kept for the backward
    // one.
    ValueId moved(ValueId id, Placement to, Phase phase, int layer = -1) {
        if (used(id) == to) return id;
        if (is_ready(graph_.value(id)) && stays_in_use_) phase = Phase::prepare;
        if (const ValueId there = there_already(id, to, phase); there != no_value) return there;
        auto op = std::make_shared<Redistribute>(axis_, ranks_, used(id), to, strategy_.zigzag(),
                                                 dim_of(strategy_.activation()));
        const Value& value = graph_.value(id);
        std::string name = fmt::format("{}.{}", value.name, op->name());
        const ValueId there = new_value(name, value.type, phase);
        placements_.produced[static_cast<std::size_t>(there)] = placements_.produced[static_cast<std::size_t>(id)];
        placements_.used[static_cast<std::size_t>(there)] = placements_.used[static_cast<std::size_t>(id)];
        set(there, to);
        // A sum is taken in the layer that makes it: what travels on, to another stage of a pipeline say, is the
        // result.
        const std::int32_t maker = produced(id) == Placement::partial() ? value.producer : -1;
        if (maker >= 0) layer = graph_.nodes()[static_cast<std::size_t>(maker)].layer;
        if (value.of_step) layer = -1; // of all layers, the first of which needs it only first
        nodes_.push_back({std::move(op), std::move(name), phase, {id}, {there}, layer});
        moved_.emplace(std::make_tuple(id, to.kind, to.value, phase), there);
        return there;
    }

    // The backward pass takes over what is no larger than what it would be made of again.
    ValueId there_already(ValueId id, Placement to, Phase phase) const {
        if (const auto found = moved_.find({id, to.kind, to.value, phase}); found != moved_.end()) return found->second;
        const bool grows = to == Placement::replicate() &&
                           placements_.used[static_cast<std::size_t>(id)][at()] != Placement::partial();
        return phase != Phase::backward || grows ? no_value : there_already(id, to, Phase::forward);
    }

    ValueId new_value(std::string name, const TensorType& type, Phase phase) {
        const ValueId id = graph_.computed(std::move(name), type, phase);
        const Placements whole(static_cast<std::size_t>(layout_.mesh.axis_count()));
        placements_.produced.push_back(whole);
        placements_.used.push_back(whole);
        return id;
    }

    void append(Node node, std::vector<Placement> outputs) {
        for (std::size_t i = 0; i < node.outputs.size(); ++i)
            set(node.outputs[i], outputs.at(i));
        const bool is_new = std::ranges::any_of(
            node.outputs, [&](ValueId id) { return graph_.value(id).producer < 0; }); // made in this pass
        if (is_new) place_on_outer_axes(node);
        nodes_.push_back(node);
        const std::size_t made = nodes_.size() - 1;
        for (const ValueId output : node.outputs)
            if (graph_.value(output).accumulated) place_accumulated(output, made);
    }

    // The axes that were placed before this node existed.
    void place_on_outer_axes(const Node& node) {
        const std::vector<TensorType> types = types_of(node.inputs);
        for (std::size_t axis = 0; axis < at(); ++axis) {
            std::vector<Placement> inputs;
            for (const ValueId input : node.inputs)
                inputs.push_back(placements_.used[static_cast<std::size_t>(input)][axis]);
            if (std::ranges::all_of(inputs, [](Placement p) { return p == Placement::replicate(); })) continue;
            const auto outputs = placed(*node.op, types, inputs, static_cast<int>(axis));
            if (!outputs) refuse(node, inputs);
            for (std::size_t i = 0; i < node.outputs.size(); ++i) {
                const auto output = static_cast<std::size_t>(node.outputs[i]);
                placements_.produced[output][axis] = placements_.used[output][axis] = (*outputs)[i];
            }
        }
    }

    // A sum over the ranks is taken once, after the last micro-batch, but over the data axis in each round. What is cut
    // otherwise than the update wants it is led there in every micro-batch, and accumulated there.
    void place_accumulated(ValueId id, std::size_t producer) {
        const Placement there = wanted(graph_.value(id));
        if (used(id) == there) return;
        const bool once = !(layout_.rounds && axis_ == layout_.data_axis) && there.kind != Placement::Kind::shard;
        if (used(id).kind == Placement::Kind::partial && once) {
            used(id) = there;
            return;
        }
        const Value& value = graph_.value(id);
        const ValueId part = new_value(value.name + ".part", value.type, value.phase);
        const auto at = static_cast<std::size_t>(id), of_part = static_cast<std::size_t>(part);
        placements_.used[of_part] = placements_.produced[of_part] = placements_.produced[at];
        std::ranges::replace(nodes_[producer].outputs, id, part);
        auto op = std::make_shared<Redistribute>(axis_, ranks_, produced(id), there, strategy_.zigzag());
        std::string name = fmt::format("{}.{}", value.name, op->name());
        nodes_.push_back({std::move(op), std::move(name), value.phase, {part}, {id}, nodes_[producer].layer});
        set(id, there);
    }

    const Layout& layout_;
    int axis_;
    int ranks_;
    const Strategy& strategy_;
    Graph& graph_;
    ValuePlacements& placements_;
    std::vector<bool> weights_;   // by ValueId, of those that were there before this pass
    std::vector<Placement> uses_; // of the same
    bool stays_in_use_ = true;    // weights that rest elsewhere are led there once a step
    bool shares_data_ = false;    // of what is read from the data the ranks take parts
    std::deque<Node> nodes_;
    std::map<std::tuple<ValueId, Placement::Kind, int, Phase>, ValueId> moved_;
    std::map<ValueId, ValueId> parts_; // of inputs
    std::map<ValueId, ValueId> sums_;  // what is accumulated of a value that an outer axis scatters before
};

} // namespace

PlacedGraph place_graph(const Graph& graph, const Layout& layout) {
    PlacedGraph placed{graph, {}};
    const Placements whole(static_cast<std::size_t>(layout.mesh.axis_count()));
    placed.placements.produced.assign(graph.values().size(), whole);
    placed.placements.used = placed.placements.produced;
    for (int axis = 0; axis < layout.mesh.axis_count(); ++axis)
        if (layout.mesh.axis(axis).size > 1 && axis != layout.pipeline_axis) AxisPass(layout, axis, placed).run();
    check_placements(placed, layout);
    return placed;
}

} // namespace tessera
