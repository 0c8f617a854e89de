// SPDX-License-Identifier: Apache-2.0
// Only images are shared out: what becomes of them, and where they are put together again, follows from the ops.
#include "parallel/strategies/spatial_parallel.hpp"

namespace tessera {

Placement SpatialParallel::input(const InputDescription& input) const {
    return input.role == "image" ? Placement::shard(dim_) : Placement::replicate();
}

} // namespace tessera
