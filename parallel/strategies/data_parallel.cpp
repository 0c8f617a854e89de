// SPDX-License-Identifier: Apache-2.0
// Weights, gradients and optimizer state are whole on every rank; only samples are divided.
#include "parallel/strategies/data_parallel.hpp"

namespace tessera {

ParameterPlacement DataParallel::place(const ParameterDescription&) const {
    const Placement whole = Placement::replicate();
    return {whole, whole, whole, whole};
}

Placement DataParallel::input() const { return Placement::shard(0); }

Placement DataParallel::activation() const { return Placement::shard(0); }

} // namespace tessera
