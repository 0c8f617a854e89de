// SPDX-License-Identifier: Apache-2.0
// Expert parallelism (GShard: Lepikhin et al. 2020): the ranks of the axis share out the samples of a micro-batch and,
// in a mixture of experts between two all_to_alls, the experts.
#pragma once

#include "parallel/strategies/strategy.hpp"

#include <string>

namespace tessera {

class ExpertParallel final : public Strategy {
public:
    ExpertParallel(std::string_view axis, int ranks) : axis_(axis), ranks_(ranks) {}

    std::string_view axis() const override { return axis_; }
    // Roles that begin with "expert" are cut along dim 0, which counts experts; the others are whole. Throws
    // ConfigError where experts cannot be shared out evenly.
    ParameterPlacement place(const ParameterDescription& parameter) const override;
    Placement input(const InputDescription& input) const override; // Shard(0): dim 0 counts samples
    Placement activation() const override;                         // likewise

private:
    std::string axis_;
    int ranks_;
};

} // namespace tessera
