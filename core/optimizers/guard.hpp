// SPDX-License-Identifier: Apache-2.0
// The guard against divergence: states and a node of the graph that judge each step before its update, so that every
// rank finds the same, nothing odd reaches a weight, and what was found before is saved and restored.
#pragma once

#include "core/config.hpp"
#include "core/graph/graph.hpp"
#include "kernels/divergence.hpp"

#include <optional>

namespace tessera {

inline constexpr Key<std::string> guard_policy{
    "guard.policy", "stop",
    "at a step whose loss or gradient norm is odd: stop, skip (its update), or rollback (to the newest checkpoint)"};
inline constexpr Key<double> guard_z_score{
    "guard.z_score", 0,
    "loss or norm so many standard deviations above the last good steps' mean is odd; 0: only what is not finite"};
inline constexpr Key<std::int64_t> guard_window{"guard.window", 128, "good steps that guard.z_score looks back on"};
inline constexpr Key<std::int64_t> guard_most{"guard.max_in_a_row", 10,
                                              "odd steps without a good one between after which a run stops anyhow"};

enum class GuardPolicy { stop, skip, rollback };

// The state that counts steps without an update.
inline constexpr std::string_view guard_skipped_steps = "optimizer.guard_skipped_steps";

struct Guard {
    GuardPolicy policy = GuardPolicy::stop;
    kernels::DivergenceLimits limits;
    std::int64_t window = 0;
    std::int64_t most_in_a_row = 0;
    ValueId losses = no_value, norms = no_value, good_steps = no_value, skipped_steps = no_value; // states
    ValueId verdict = no_value; // kept after the step: kernels/divergence.hpp
};

// The guard that the config asks for, its states appended to the graph; none where it would find nothing that the end
// of a run does not find. ConfigError for a wrong value. `scaled`: the loss has a scale (loss_scale.hpp).
std::optional<Guard> append_guard(Graph& graph, const Config& config, bool scaled);

// Appends the node that judges a step and returns the factor of the update: that of clipping, or 0.
ValueId append_judgement(Graph& graph, Guard& guard, ValueId loss, ValueId norm, ValueId factor);

} // namespace tessera
