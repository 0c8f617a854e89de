// SPDX-License-Identifier: Apache-2.0
// Data parallelism: every rank of the axis holds the whole model and computes its share of the samples.
#pragma once

#include "parallel/strategies/strategy.hpp"

#include <string>

namespace tessera {

class DataParallel final : public Strategy {
public:
    explicit DataParallel(std::string_view axis) : axis_(axis) {}

    std::string_view axis() const override { return axis_; }
    ParameterPlacement place(const ParameterDescription& parameter) const override; // Replicate throughout
    Placement input() const override;                                               // Shard(0): dim 0 counts samples
    Placement activation() const override;                                          // likewise

private:
    std::string axis_;
};

} // namespace tessera
