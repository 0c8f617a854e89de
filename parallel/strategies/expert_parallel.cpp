// SPDX-License-Identifier: Apache-2.0
// Samples and experts are shared out; that tokens travel between them is a rule of the ops.
#include "parallel/strategies/expert_parallel.hpp"

#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera {

ParameterPlacement ExpertParallel::place(const ParameterDescription& parameter) const {
    const bool of_experts = parameter.role.starts_with("expert");
    if (of_experts && parameter.shape[0] % ranks_ != 0)
        throw ConfigError(fmt::format("'{}' has {} experts: they cannot be shared out evenly over the {} ranks of mesh "
                                      "axis '{}'",
                                      parameter.name, parameter.shape[0], ranks_, axis_));
    const Placement there = of_experts ? Placement::shard(0) : Placement::replicate();
    return {.rest = there, .use = there, .gradient = there, .state = there};
}

Placement ExpertParallel::input(const InputDescription&) const { return Placement::shard(0); }

Placement ExpertParallel::activation() const { return Placement::shard(0); }

} // namespace tessera
