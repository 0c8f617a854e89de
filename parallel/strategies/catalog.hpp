// SPDX-License-Identifier: Apache-2.0
// The strategies by name, as a config file says them. The one list stands in catalog.cpp.
#pragma once

#include "parallel/strategies/strategy.hpp"

#include <memory>
#include <string_view>
#include <vector>

namespace tessera {

std::vector<std::string_view> strategy_names(); // alphabetical

// What the strategies of a mesh are told.
struct StrategyOptions {
    int zero_stage = 0;             // of data parallelism
    bool sequence_parallel = false; // tensor parallelism shares out the sequence, too
    bool ring = false;              // the ranks of context parallelism are a ring, and their shards zig-zag
};

// The strategy `name` on an axis of the mesh. Throws ConfigError for an unknown name, with the nearest known one.
std::unique_ptr<Strategy> make_strategy(std::string_view name, const MeshAxis& axis,
                                        const StrategyOptions& options = {});

} // namespace tessera
