// SPDX-License-Identifier: Apache-2.0
// A weight on its way from the stage where it rests to another that uses it, too.
#pragma once

#include "core/graph/op.hpp"

namespace tessera {

class Relay final : public Op { // x at stage `from` -> the same at stage `to`
public:
    Relay(int axis, int from, int to) : axis_(axis), from_(from), to_(to) {}

    std::string_view name() const override { return "relay"; }
    std::optional<Transfer> transfer() const override { return Transfer{axis_, Collective::send}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0]}; }
    void run(Stream& stream, const Operands& operands) const override;

private:
    int axis_;
    int from_;
    int to_;
};

} // namespace tessera
