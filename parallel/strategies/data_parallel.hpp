// SPDX-License-Identifier: Apache-2.0
// Data parallelism: every rank of the axis computes its share of the samples with the whole model. With ZeRO
// (Rajbhandari et al. 2020) the ranks update a part each and share out the optimizer's state (stage 1), the memory of
// the gradients (2), and that of the weights, which are gathered where their layer computes (3).
#pragma once

#include "parallel/strategies/strategy.hpp"

#include <string>

namespace tessera {

class DataParallel final : public Strategy {
public:
    DataParallel(std::string_view axis, int zero_stage) : axis_(axis), stage_(zero_stage) {}

    std::string_view axis() const override { return axis_; }
    ParameterPlacement place(const ParameterDescription& parameter) const override;
    Placement input(const InputDescription& input) const override; // Shard(0): dim 0 counts samples
    Placement activation() const override;                         // likewise
    bool sums_every_micro_batch() const override { return stage_ >= 2; }

private:
    std::string axis_;
    int stage_;
};

} // namespace tessera
