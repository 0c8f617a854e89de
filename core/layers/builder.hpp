// SPDX-License-Identifier: Apache-2.0
// What a layer is given to build itself: the graph, names, and weights in the type that the model computes in.
#pragma once

#include "core/graph/graph.hpp"

#include <fmt/core.h>
#include <string>

namespace tessera {

// What a model computes in. Weights rest in f32.
struct Precision {
    DType compute = DType::f32; // of activations and weights in use
};

// A layer is a function of a Builder and values. Scopes nest: in scope "layers.0", weight "up.weight" is
// "layers.0.up.weight".
class Builder {
public:
    Builder(Graph& graph, const Precision& precision, bool training)
        : graph_(graph), precision_(precision), training_(training) {}

    Graph& graph() { return graph_; }
    DType compute() const { return precision_.compute; }
    bool training() const { return training_; } // dropout is active
    std::string path(std::string_view name) const {
        return scope_.empty() ? std::string(name) : fmt::format("{}.{}", scope_, name);
    }

    // A matrix or table, normal(0, deviation), kept in f32 and handed out in the compute type. It decays.
    ValueId matrix(std::string_view name, const Shape& shape, std::string role, double deviation);
    // A scale or bias, constant at the start, used in f32. It does not decay.
    ValueId vector(std::string_view name, const Shape& shape, std::string role, double constant);

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
    };

private:
    Graph& graph_;
    Precision precision_;
    bool training_;
    std::string scope_;
    int layer_ = -1;
};

} // namespace tessera
