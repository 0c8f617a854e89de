// SPDX-License-Identifier: Apache-2.0
// Faults put into a plan on purpose, so that `tessera verify` can be seen to find them.
#pragma once

#include "core/plan/plan.hpp"

#include <string>

namespace tessera {

// "drop:NAME": the collective NAME does not happen: of a sum each rank keeps its own summand, of all else what it would
// have received is 0. NAME is a node of the plan's graph, a value that is summed over the ranks after the last
// micro-batch, or one that a pipeline's stages send each other. "scale:NAME": the value NAME comes out `count` times
// too large. Before an executor is made of the plan, and on all ranks alike. ConfigError when there is nothing of that
// name.
void plant_fault(const std::string& fault, int count, Plan& plan);

} // namespace tessera
