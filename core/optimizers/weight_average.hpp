// SPDX-License-Identifier: Apache-2.0
// The exponential moving average of the weights: states of the optimizer, and the node that moves them.
#pragma once

#include "core/config.hpp"
#include "core/graph/graph.hpp"

#include <string>
#include <string_view>

namespace tessera {

inline constexpr Key<double> training_ema_decay{
    "training.ema_decay", 0,
    "keep a moving average of the weights: what it keeps of itself in a step, 0.999 say; 0: none"};

// ConfigError unless 0 <= it < 1.
double ema_decay(const Config& config);

// The state of a weight's average is "optimizer.ema/WEIGHT".
inline constexpr std::string_view weight_average = "optimizer.ema/";
inline bool is_weight_average(std::string_view state) { return state.starts_with(weight_average); }
inline std::string weight_average_of(std::string_view weight) { return std::string(weight_average).append(weight); }
inline std::string_view averaged_weight(std::string_view state) { return state.substr(weight_average.size()); }

// For each parameter that is trained, behind its update: average = d * average + (1 - d) * weight, in the n-th update
// by d = min(decay, (1 + n) / (10 + n)) (TensorFlow's ExponentialMovingAverage); the first one copies, so that random
// weights have no part in it. Averages start as the weights (run/weights.hpp). Where `factor` is 0 nothing changes.
void append_weight_average(Graph& graph, double decay, ValueId factor);

} // namespace tessera
