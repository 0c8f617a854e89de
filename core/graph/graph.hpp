// SPDX-License-Identifier: Apache-2.0
// A graph of ops on logical (whole, unsharded) tensors. It sees one micro-batch; it knows no rank and no memory.
#pragma once

#include "core/graph/op.hpp"

#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace tessera {

// When a node runs. A training step is: prepare once; forward and backward for each micro-batch of the rank's share;
// update once, after what was accumulated over the micro-batches has been reduced over the ranks.
enum class Phase { prepare, forward, backward, update };

// How a parameter starts: normal(0, deviation), or a constant when deviation is 0.
struct Initialization {
    double deviation = 0;
    double constant = 0;
};

// A parameter as the world outside the graph knows it: checkpoints, strategies, optimizers.
struct ParameterInfo {
    std::string role; // what a strategy decides by: "column", "row", "head", "head_output", "vocabulary", …
    int layer = -1;   // -1: not in a numbered layer
    Initialization start;
    bool decays = false;   // weight decay applies: matrices and tables only
    std::int64_t rows = 0; // that count; those behind are padding, which stays 0 and is not saved; 0: all do
    bool frozen = false;   // keeps its first value: it has no gradient and no optimizer state
};

enum class ValueKind { input, parameter, optimizer_state, computed };

struct Value {
    std::string name;
    TensorType type;
    ValueKind kind = ValueKind::computed;
    std::string role{};                       // of an input that is read from the data: see Graph::input
    Phase phase = Phase::forward;             // of the producing node; when it must be there, for the others
    std::int32_t producer = -1;               // node index; -1 for inputs, parameters and states
    bool accumulated = false;                 // summed over the step's micro-batches (f32), then over the ranks
    ValueId gradient_of = no_value;           // of an accumulated gradient: its parameter
    std::optional<ParameterInfo> parameter{}; // of a parameter, and of a state that belongs to one
    float start = 0;                          // of a state that belongs to none
    StepFunction of_step{};                   // of a step input

    // Without padding: as the world outside the graph knows it.
    Shape shape_outside() const {
        Shape shape = type.shape;
        if (parameter && parameter->rows > 0) shape.set(0, parameter->rows);
        return shape;
    }
};

struct Node {
    OpPointer op;
    std::string name;
    Phase phase = Phase::forward;
    std::vector<ValueId> inputs;
    std::vector<ValueId> outputs;
    int layer = -1;        // the numbered layer that it, or what it is the gradient of, belongs to; -1: none
    bool repeated = false; // does again what the forward pass has done
};

class Graph {
public:
    // Written from outside before each micro-batch. What its samples are is for strategies to decide by: "tokens",
    // "image", or "" (parallel/strategies/strategy.hpp).
    ValueId input(std::string name, TensorType type, std::string role = {});
    // An input that is a function of the step and the micro-batch, written before the current phase begins. Asked for
    // twice by name, it is one value.
    ValueId step_input(std::string name, TensorType type, StepFunction of_step);
    ValueId parameter(std::string name, const Shape& shape, ParameterInfo info); // f32
    ValueId optimizer_state(std::string name, ValueId parameter); // f32, the parameter's shape, starts at 0

    // f32, the same on all ranks; an op of the update phase changes it. Where its name begins with "optimizer.", a
    // checkpoint may do without it; the others are part of the model (running statistics).
    ValueId optimizer_state(std::string name, const Shape& shape, float start);

    // Appends a node in the current phase. ConfigError "linear 'layers.0.mlp.up': …" when the inputs do not fit.
    std::vector<ValueId> apply(OpPointer op, std::string name, std::vector<ValueId> inputs);
    ValueId apply_one(OpPointer op, std::string name, std::vector<ValueId> inputs); // for ops with one output

    // Nodes appended while the guard lives belong to `phase`.
    class PhaseGuard {
    public:
        PhaseGuard(Graph& graph, Phase phase) : graph_(graph), before_(graph.phase_) { graph.phase_ = phase; }
        ~PhaseGuard() { graph_.phase_ = before_; }
        PhaseGuard(const PhaseGuard&) = delete;
        PhaseGuard& operator=(const PhaseGuard&) = delete;

    private:
        Graph& graph_;
        Phase before_;
    };

    // Likewise, to a numbered layer.
    class LayerGuard {
    public:
        LayerGuard(Graph& graph, int layer) : graph_(graph), before_(graph.layer_) { graph.layer_ = layer; }
        ~LayerGuard() { graph_.layer_ = before_; }
        LayerGuard(const LayerGuard&) = delete;
        LayerGuard& operator=(const LayerGuard&) = delete;

    private:
        Graph& graph_;
        int before_;
    };

    // From now on the value is summed over all micro-batches of a step, in the step's summation tree.
    void accumulate(ValueId value, ValueId gradient_of = no_value);
    // The value is read from outside after the run: its memory is not reused.
    void keep(ValueId value) { kept_.push_back(value); }

    const Value& value(ValueId id) const { return values_[static_cast<std::size_t>(id)]; }
    const std::deque<Value>& values() const { return values_; }
    const std::deque<Node>& nodes() const { return nodes_; }
    const std::vector<ValueId>& kept() const { return kept_; }
    std::vector<ValueId> of_kind(ValueKind kind) const;
    std::vector<ValueId> trained() const;       // parameters that are not frozen, in the order of of_kind
    void freeze(ValueId parameter);             // before differentiate
    ValueId named(std::string_view name) const; // InternalError when there is none

    // For passes that rewrite a graph. A value without a producer, to be made by a node of replace_nodes.
    ValueId computed(std::string name, const TensorType& type, Phase phase);
    // Other nodes in place of all, in the order in which they run within their phases. Values keep their ids.
    void replace_nodes(std::deque<Node> nodes);

private:
    ValueId append(Value value);

    std::deque<Value> values_; // a deque: references stay valid while gradients append nodes
    std::deque<Node> nodes_;
    std::vector<ValueId> kept_;
    Phase phase_ = Phase::forward;
    int layer_ = -1;
};

// Of a batch norm: two states (C), what the step accumulates for them (kernels/batch_norm.hpp), and its share in them.
struct RunningStatistics {
    ValueId moments = no_value, mean = no_value, variance = no_value;
    double momentum = 0.1;
};

// A state in f32 that holds what the last step has left.
struct CarriedState {
    ValueId state = no_value, left = no_value;
};

// A value that is a loss beside the loss: what is minimised grows with it by `gradient`, a value of its shape, f32.
struct LossBeside {
    ValueId value;
    ValueId gradient;
};

// Appends, in the backward phase, the nodes that compute d loss / d parameter for every parameter that is trained,
// marks loss and gradients as accumulated, and returns the gradients in the order of trained(). The loss must come from
// an op that computes its inputs' gradients itself (cross_entropy): the seed is one. Losses beside it must be computed
// before it. Reverse-mode differentiation; several contributions to one value are added in the order of the nodes.
std::vector<ValueId> differentiate(Graph& graph, ValueId loss, std::span<const LossBeside> beside = {});

} // namespace tessera
