// SPDX-License-Identifier: Apache-2.0
// What the update ops of all optimizers have in common: many parameters in one node, each placed on its own.
#pragma once

#include "core/graph/op.hpp"

namespace tessera {

// Inputs: what changes from step to step (the optimizer's step input); the factor of the gradients (scalar); then lists
// of `tensors` each: the gradients, the weights, and what the optimizer keeps of them; then values that are the same on
// every rank. Weights and what is kept change.
class UpdateOp : public Op {
public:
    UpdateOp(std::size_t tensors, std::size_t states, std::size_t behind = 0)
        : tensors_(tensors), lists_(2 + states), behind_(behind) {}

    std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
    std::optional<std::vector<Placement>> placed(std::span<const TensorType> types,
                                                 std::span<const Placement> inputs) const override;
    std::vector<int> writes() const override;

protected:
    std::vector<int> all_but_weights() const;
    ConstView behind_lists(const Operands& a, std::size_t i) const {
        return a.inputs[before_lists + lists_ * tensors_ + i];
    }
    static ConstView pace(const Operands& operands) { return operands.inputs[0]; }
    static ConstView factor(const Operands& operands) { return operands.inputs[1]; }
    std::span<const View> gradients(const Operands& operands) const { return list(operands.inputs, 0); }
    std::span<const View> weights(const Operands& operands) const { return list(operands.inputs, 1); }
    std::span<const View> state(const Operands& operands, std::size_t i) const { return list(operands.inputs, 2 + i); }

private:
    static constexpr std::size_t before_lists = 2;

    template <class T> std::span<const T> list(std::span<const T> inputs, std::size_t i) const {
        return inputs.subspan(before_lists + i * tensors_, tensors_);
    }

    std::size_t tensors_;
    std::size_t lists_;
    std::size_t behind_;
};

} // namespace tessera
