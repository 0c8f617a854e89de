// SPDX-License-Identifier: Apache-2.0
// Only the sequence is shared out; what attention does is that op's affair.
#include "parallel/strategies/context_parallel.hpp"

namespace tessera {

// A rank needs the positions of its part alone. Parameters are never cut zig-zag: they rest whole then.
ParameterPlacement ContextParallel::place(const ParameterDescription& parameter) const {
    const Placement use = parameter.role == "position" ? Placement::shard(0) : Placement::replicate();
    const Placement there = ring_ ? Placement::replicate() : use;
    return {.rest = there, .use = use, .gradient = there, .state = there};
}

// Only tokens have a sequence to share out.
Placement ContextParallel::input(const InputDescription& input) const {
    return input.role == "tokens" ? Placement::shard(1) : Placement::replicate();
}

Placement ContextParallel::activation() const { return Placement::shard(1); }

} // namespace tessera
