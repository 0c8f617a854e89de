// SPDX-License-Identifier: Apache-2.0
// Only the sequence is shared out; that attention wants heads is a rule of that op.
#include "parallel/strategies/context_parallel.hpp"

namespace tessera {

// A rank needs the positions of its part alone.
ParameterPlacement ContextParallel::place(const ParameterDescription& parameter) const {
    const Placement there = parameter.role == "position" ? Placement::shard(0) : Placement::replicate();
    return {.rest = there, .use = there, .gradient = there, .state = there};
}

Placement ContextParallel::input() const { return Placement::shard(1); }

Placement ContextParallel::activation() const { return Placement::shard(1); }

} // namespace tessera
