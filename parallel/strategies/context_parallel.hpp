// SPDX-License-Identifier: Apache-2.0
// Context parallelism by heads (DeepSpeed-Ulysses: Jacobs et al. 2023): the ranks of the axis share out the sequence,
// and in attention, between two all_to_alls, the heads.
#pragma once

#include "parallel/strategies/strategy.hpp"

#include <string>

namespace tessera {

class ContextParallel final : public Strategy {
public:
    explicit ContextParallel(std::string_view axis) : axis_(axis) {}

    std::string_view axis() const override { return axis_; }
    ParameterPlacement place(const ParameterDescription& parameter) const override; // Replicate, but positions
    Placement input() const override;                                               // Shard(1): dim 1 counts time
    Placement activation() const override;                                          // likewise

private:
    std::string axis_;
};

} // namespace tessera
