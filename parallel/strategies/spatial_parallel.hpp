// SPDX-License-Identifier: Apache-2.0
// Spatial parallelism (LBANN: Dryden et al. 2019): the ranks of the axis share out the rows, or the columns, of images
// and of what layers make of them. Weights are whole; where a window looks over the edge of a strip, ranks exchange
// what it sees there.
#pragma once

#include "parallel/strategies/strategy.hpp"

#include <string>

namespace tessera {

class SpatialParallel final : public Strategy {
public:
    // `dim` of images (N, H, W, C): 1, their height, or 2, their width.
    SpatialParallel(std::string_view axis, int dim) : axis_(axis), dim_(dim) {}

    std::string_view axis() const override { return axis_; }
    ParameterPlacement place(const ParameterDescription&) const override { return {}; } // Replicate; gradients are sums
    Placement input(const InputDescription& input) const override; // images: Shard(dim); else Replicate
    Placement activation() const override { return Placement::replicate(); }
    bool exchanges_halos() const override { return true; }

private:
    std::string axis_;
    int dim_;
};

} // namespace tessera
