// SPDX-License-Identifier: Apache-2.0
// What tests of optimizers train: two parameters with a quadratic loss.
#pragma once

#include "core/config_catalog.hpp"
#include "core/optimizers/optimizer.hpp"
#include "tests/core/functional.hpp"

#include <fmt/format.h>

namespace tessera {

struct Settings {
    std::string name;
    double decay = 0, beta1 = 0.9, beta2 = 0.99, epsilon = 1e-8, momentum = 0, alpha = 0.99;
    bool nesterov = false;
    double rate = 0.1, max_norm = 0;
};

inline Config config_of(const Settings& s) {
    return Config::parse(
        fmt::format("[optimizer]\nname = \"{}\"\nweight_decay = {}\nbeta1 = {}\nbeta2 = {}\neps = {}\nmomentum = {}\n"
                    "nesterov = {}\nalpha = {}\nlr = {}\n[training]\nmax_norm = {}\n",
                    s.name, s.decay, s.beta1, s.beta2, s.epsilon, s.momentum, s.nesterov, s.alpha, s.rate, s.max_norm),
        "test.toml", {}, known_keys());
}

// A graph with parameters w (3, 5), which decays, and b (5), which does not.
struct Trained {
    Graph graph;
    ValueId w = graph.parameter("w", {3, 5}, {"weight", -1, {}, true});
    ValueId b = graph.parameter("b", {5}, {"bias", -1, {}, false});
    ValueId norm = no_value;

    explicit Trained(const Settings& settings) {
        const ValueId loss = graph.apply(std::make_shared<Quadratic>(), "quadratic", {w, b})[2];
        const Config config = config_of(settings);
        norm = append_optimizer(graph, differentiate(graph, loss), *make_optimizer(config),
                                {.max_norm = settings.max_norm});
    }
};

} // namespace tessera
