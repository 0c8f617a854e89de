// SPDX-License-Identifier: Apache-2.0
// Shapes and placements of an update, tensor by tensor.
#include "core/optimizers/update_op.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {

std::vector<TensorType> UpdateOp::infer(std::span<const TensorType> inputs) const {
    const std::size_t expected = before_lists + lists_ * tensors_ + behind_;
    if (inputs.size() != expected)
        throw InternalError(fmt::format("{}: {} inputs, expected {}", name(), inputs.size(), expected));
    return {};
}

// The rules would be all combinations of what can be said of one tensor: its gradient, its weight and its states are on
// every rank, or all are cut alike.
std::optional<std::vector<Placement>> UpdateOp::placed(std::span<const TensorType> types,
                                                       std::span<const Placement> inputs) const {
    const auto is_whole = [](Placement placement) { return placement == Placement::replicate(); };
    if (!std::ranges::all_of(inputs.first(before_lists), is_whole)) return std::nullopt;
    if (!std::ranges::all_of(inputs.last(behind_), is_whole)) return std::nullopt;
    const std::span<const Placement> of_gradients = list(inputs, 0);
    for (std::size_t i = 0; i < lists_; ++i)
        if (!std::ranges::equal(list(inputs, i), of_gradients)) return std::nullopt;
    for (std::size_t i = 0; i < tensors_; ++i) {
        const Placement& placement = of_gradients[i];
        const bool cut = placement == Placement::flat() || (placement.kind == Placement::Kind::shard &&
                                                            placement.value < types[before_lists + i].shape.rank());
        if (placement != Placement::replicate() && placement.kind != Placement::Kind::at && !cut) return std::nullopt;
    }
    return std::vector<Placement>();
}

std::vector<int> UpdateOp::writes() const {
    std::vector<int> positions;
    for (std::size_t i = before_lists + tensors_; i < before_lists + lists_ * tensors_; ++i)
        positions.push_back(static_cast<int>(i));
    return positions;
}

std::vector<int> UpdateOp::all_but_weights() const {
    std::vector<int> positions;
    for (std::size_t i = 0; i < lists_ * tensors_; ++i)
        if (i < tensors_ || i >= 2 * tensors_) positions.push_back(static_cast<int>(before_lists + i));
    return positions;
}

} // namespace tessera
