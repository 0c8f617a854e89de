// SPDX-License-Identifier: Apache-2.0
// Context parallelism: the ranks of the axis share out the sequence. Attention either shares out the heads, between two
// all_to_alls (DeepSpeed-Ulysses: Jacobs et al. 2023), or keys and values travel around the ring of ranks (Ring
// Attention: Liu et al. 2023), whose shards are zig-zag.
#pragma once

#include "parallel/strategies/strategy.hpp"

#include <string>

namespace tessera {

class ContextParallel final : public Strategy {
public:
    ContextParallel(std::string_view axis, bool ring) : axis_(axis), ring_(ring) {}

    std::string_view axis() const override { return axis_; }
    ParameterPlacement place(const ParameterDescription& parameter) const override; // Replicate, but positions
    Placement input(const InputDescription& input) const override;                  // tokens: Shard(1); else Replicate
    Placement activation() const override;                                          // Shard(1): dim 1 counts time
    bool zigzag() const override { return ring_; }

private:
    std::string axis_;
    bool ring_;
};

} // namespace tessera
