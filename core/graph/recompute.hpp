// SPDX-License-Identifier: Apache-2.0
// Activation recomputation (Chen et al. 2016; selective: Korthikanti et al. 2022): what the backward pass needs of the
// forward one is computed again instead of kept.
#pragma once

#include "core/graph/graph.hpp"

#include <string_view>

namespace tessera {

// none: all is kept. selective: what cheap ops (Op::is_cheap) make is not. full: of a numbered layer only what other
// layers take from it is kept.
enum class Recompute { none, selective, full };

// Throws ConfigError for an unknown name, with the nearest known one.
Recompute recompute_named(std::string_view name);

// Rewrites a graph that has its gradient. The repeated nodes run just before the first that needs them; they do what
// the forward ones did, so no bit changes.
void recompute(Graph& graph, Recompute what);

} // namespace tessera
