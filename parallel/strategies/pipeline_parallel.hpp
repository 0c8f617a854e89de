// SPDX-License-Identifier: Apache-2.0
// Pipeline parallelism (GPipe: Huang et al. 2019): the ranks of the axis share out the layers. A tensor is whole on its
// layer's stage; which stage that is follows from what the layers cost.
#pragma once

#include "parallel/strategies/strategy.hpp"

#include <span>
#include <string>
#include <vector>

namespace tessera {

class PipelineParallel final : public Strategy {
public:
    explicit PipelineParallel(std::string_view axis) : axis_(axis) {}

    std::string_view axis() const override { return axis_; }
    ParameterPlacement place(const ParameterDescription&) const override { return {}; } // whole on its stage
    Placement input(const InputDescription&) const override { return Placement::replicate(); }
    Placement activation() const override { return Placement::replicate(); }

private:
    std::string axis_;
};

// Neighbouring items in so many pieces, none of them empty: the largest piece costs as little as can be, and of such
// cuts the pieces are as even as can be. The piece of each item. InternalError with fewer items than pieces.
std::vector<int> cut_evenly(std::span<const double> costs, int pieces);

} // namespace tessera
