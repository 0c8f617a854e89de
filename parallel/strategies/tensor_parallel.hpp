// SPDX-License-Identifier: Apache-2.0
// Tensor parallelism (Megatron-LM: Shoeybi et al. 2019): the ranks of the axis share out the heads of attention, the
// hidden units of the MLP and the vocabulary; optionally also the sequence between them (Korthikanti et al. 2022).
#pragma once

#include "parallel/strategies/strategy.hpp"

#include <string>

namespace tessera {

class TensorParallel final : public Strategy {
public:
    // `ranks` of the axis. With sequence parallelism the tensors between the shared layers are cut along the sequence;
    // `zigzag`: and another axis has cut it so before.
    TensorParallel(std::string_view axis, int ranks, bool sequence, bool zigzag)
        : axis_(axis), ranks_(ranks), sequence_(sequence), zigzag_(zigzag) {}

    std::string_view axis() const override { return axis_; }
    // By role. Throws ConfigError where heads or hidden units cannot be shared out evenly.
    ParameterPlacement place(const ParameterDescription& parameter) const override;
    Placement input(const InputDescription&) const override { return Placement::replicate(); }
    Placement activation() const override;

private:
    std::string axis_;
    int ranks_;
    bool sequence_;
    bool zigzag_;
};

} // namespace tessera
