// SPDX-License-Identifier: Apache-2.0
// What a layer is given to build itself: the graph, names, and weights in the type that the model computes in.
#pragma once

#include "core/graph/graph.hpp"
#include "core/layers/lora.hpp"

#include <fmt/core.h>
#include <map>
#include <string>

namespace tessera {

// Large vocabularies have whole 128s of rows in memory, for which tensor cores are made: the head's product with
// GPT-2's 50257 has rows of logits at odd addresses otherwise. Small ones stay as they are: they would grow by too
// much.
std::int64_t rows_in_memory(std::int64_t vocabulary);

// What a model computes in. Weights rest in f32.
struct Precision {
    DType compute = DType::f32;      // of activations and weights in use
    bool linear_f8 = false;          // linear layers multiply 8-bit factors; compute is bf16
    bool stochastic_weights = false; // bf16 weights in use are rounded by chance, anew in each step
};

// A layer is a function of a Builder and values. Scopes nest: in scope "layers.0", weight "up.weight" is
// "layers.0.up.weight".
class Builder {
public:
    Builder(Graph& graph, const Precision& precision, bool training)
        : graph_(graph), precision_(precision), training_(training) {}

    // From here on weights are frozen, and linear layers that are targets get adapters, which are trained.
    void adapt(LoraOptions lora) { lora_ = std::move(lora); }

    Graph& graph() { return graph_; }
    DType compute() const { return precision_.compute; }
    bool training() const { return training_; }     // dropout is active
    std::string path(std::string_view name) const { // "": the scope itself
        return scope_.empty() || name.empty() ? scope_ + std::string(name) : fmt::format("{}.{}", scope_, name);
    }

    // A matrix or table, normal(0, deviation), kept in f32 and handed out in the compute type. It decays.
    ValueId matrix(std::string_view name, const Shape& shape, std::string role, double deviation);
    // The same, handed out in f32 whatever the compute type.
    ValueId exact_matrix(std::string_view name, const Shape& shape, std::string role, double deviation);
    // A table with a row for each token: (V, C), in memory (rows_in_memory(V), C). Role "vocabulary".
    ValueId table(std::string_view name, std::int64_t vocabulary, std::int64_t width, double deviation);
    // The weight of a linear layer, for linear() alone, which multiplies it in the type that the run chose.
    ValueId linear_weight(std::string_view name, const Shape& shape, std::string role, double deviation);
    // y = x w^T + bias (ops::linear); in 8 bits x is rounded for each micro-batch, w once a step from f32. The scales
    // are of the tensor at hand: they need no history, which would be state, and no value ever lies beyond them. A
    // delayed scale (Micikevicius et al. 2022; Transformer Engine's DelayedScaling) saves the pass for the largest
    // magnitude.
    ValueId linear(std::string_view name, ValueId x, ValueId weight, ValueId bias, int contracted = 1);
    // A scale or bias, constant at the start, used in f32. It does not decay.
    ValueId vector(std::string_view name, const Shape& shape, std::string role, double constant);

    // Running statistics of a batch norm: states that start at 0 and 1.
    RunningStatistics running_statistics(const Shape& shape, double momentum);
    // In training: the step's moments, of which the running ones are made.
    void accumulate(RunningStatistics of, ValueId moments);
    const std::vector<RunningStatistics>& running() const { return running_; } // that are accumulated

    class Scope { // while it lives, names are below `name`, and parameters belong to layer number `layer`
    public:
        Scope(Builder& builder, std::string_view name, int layer = -1);
        ~Scope();
        Scope(const Scope&) = delete;
        Scope& operator=(const Scope&) = delete;

    private:
        Builder& builder_;
        std::string scope_before_;
        int layer_before_;
        Graph::LayerGuard nodes_;
    };

private:
    ValueId decaying(std::string_view name, const Shape& shape, ParameterInfo info);
    ValueId parameter(std::string_view name, const Shape& shape, ParameterInfo info);
    ValueId adapted(std::string_view name, ValueId x, ValueId weight, ValueId y, int contracted);

    Graph& graph_;
    Precision precision_;
    bool training_;
    std::string scope_;
    int layer_ = -1;
    LoraOptions lora_;
    std::map<ValueId, std::string> roles_; // of linear layers' weights
    bool adapter_ = false;                 // what is made is one
    std::vector<RunningStatistics> running_;
};

} // namespace tessera
