// SPDX-License-Identifier: Apache-2.0
// A plan as text for people: what `tessera plan` prints.
#pragma once

#include "core/run/experiment.hpp"

#include <string>

namespace tessera {

// Mesh, batch, parameters with placements, collectives with bytes per step, memory by kind in bytes, and what the
// promise of equal bits covers.
std::string describe_plan(const Experiment& experiment, const RankView& view, const Stream& stream);

} // namespace tessera
