// SPDX-License-Identifier: Apache-2.0
// What a machine's file means for an experiment, and the text of a predicted step.
#pragma once

#include "core/cost/step_cost.hpp"
#include "core/run/experiment.hpp"

#include <string>
#include <vector>

namespace tessera {

// The machine as this config uses it: its products in tf32 where they are asked for.
Machine machine_for(const Config& config, Machine machine);

// Where the config does not say so: the machine's kind of device (a CPU in its place where the program knows no GPU),
// and gradients in the buckets that they would have there.
void settle_for(const Machine& machine, Config& config);

// The axes of a list of names, "data,tensor". ConfigError for another, with the nearest; an axis of one rank is left
// out.
std::vector<int> axes_named(const std::string& names, const Mesh& mesh);

// A line for each part of the step, with its share, and the speed.
std::string describe_cost(const StepCost& cost, const Experiment& experiment, const Machine& machine);

// "products 61 %, tensor 18 %": the two largest parts.
std::string bounds_of(const StepCost& cost, const Layout& layout);

} // namespace tessera
