// SPDX-License-Identifier: Apache-2.0
// Sample parallelism: the ranks of the axis share out the samples of one micro-batch, as many as there are. Where an op
// sees all samples (batch norm's mean and variance), its sums are added up between the ranks. Weights are whole.
#pragma once

#include "parallel/strategies/strategy.hpp"

#include <string>

namespace tessera {

class SampleParallel final : public Strategy {
public:
    explicit SampleParallel(std::string_view axis) : axis_(axis) {}

    std::string_view axis() const override { return axis_; }
    ParameterPlacement place(const ParameterDescription&) const override { return {}; } // Replicate; gradients are sums
    Placement input(const InputDescription&) const override { return Placement::shard(0); } // dim 0 counts samples
    Placement activation() const override { return Placement::shard(0); }

private:
    std::string axis_;
};

} // namespace tessera
