// SPDX-License-Identifier: Apache-2.0
// What each stage shares out.
#include "parallel/strategies/data_parallel.hpp"

namespace tessera {

// Weights rest where the optimizer updates them; before a step, or before their layer, they are gathered.
ParameterPlacement DataParallel::place(const ParameterDescription&) const {
    const Placement whole = Placement::replicate();
    const Placement part = stage_ >= 1 ? Placement::flat() : whole;
    return {part, whole, part, part, stage_ < 3};
}

Placement DataParallel::input(const InputDescription&) const { return Placement::shard(0); }

Placement DataParallel::activation() const { return Placement::shard(0); }

} // namespace tessera
