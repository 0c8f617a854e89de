// SPDX-License-Identifier: Apache-2.0
// The scale of the loss in f16 training, as states and nodes of the graph: it is saved and restored like any state.
#pragma once

#include "core/config.hpp"
#include "core/graph/graph.hpp"
#include "kernels/loss_scale.hpp"

namespace tessera {

inline constexpr Key<double> loss_scale_start{
    "training.loss_scale", 65536, "f16: the loss is multiplied by this at the start; a power of two up to 2^32"};
inline constexpr Key<double> loss_scale_growth{"training.loss_scale_growth", 2,
                                               "f16: the scale's factor after good steps, a power of two; 1: none"};
inline constexpr Key<double> loss_scale_backoff{
    "training.loss_scale_backoff", 0.5,
    "f16: the scale's factor after a step whose gradients are not finite, which is skipped; a power of two below 1"};
inline constexpr Key<std::int64_t> loss_scale_interval{"training.loss_scale_interval", 2000,
                                                       "f16: good steps in a row after which the scale grows"};

struct LossScale {
    kernels::LossScaling settings;
    ValueId scale = no_value, good_steps = no_value, skipped_steps = no_value; // states, scalars
    ValueId of_gradient = no_value; // scale / units of a step: what a loss is given
};

// Appends the states, and what makes of_gradient before each step. ConfigError for settings that are no power of two:
// only those leave every bit of a gradient's mantissa as it is.
LossScale append_loss_scale(Graph& graph, const Config& config, std::int64_t units_per_step);
// Appends what of_gradient is times a factor, for a loss that weighs so much.
ValueId append_weighted_scale(Graph& graph, std::string name, const LossScale& loss_scale, double weight);

// Appends the node that unscales and clips, and changes the states; returns norm and factor.
std::vector<ValueId> append_unscale(Graph& graph, const LossScale& loss_scale, ValueId square_sum, double max_norm);

} // namespace tessera
