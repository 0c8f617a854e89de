// SPDX-License-Identifier: Apache-2.0
// The defaults of an op: no gradient, no way to run sharded.
#include "core/graph/op.hpp"

#include "core/graph/attributes.hpp"
#include "core/graph/graph.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {

std::vector<ValueId> Op::gradient(Graph&, const Node& node, std::span<const ValueId>) const {
    throw InternalError(fmt::format("{} '{}' has no gradient", name(), node.name));
}

std::vector<PlacementRule> Op::placements(std::span<const TensorType>) const { return {}; }

Attributes Op::attributes() const { return {}; }

std::optional<std::vector<Placement>> Op::placed(std::span<const TensorType> types,
                                                 std::span<const Placement> inputs) const {
    for (PlacementRule& rule : placements(types))
        if (std::ranges::equal(rule.inputs, inputs)) return std::move(rule.outputs);
    return std::nullopt;
}

std::vector<PlacementRule> elementwise_rules(int dims, std::size_t inputs, std::size_t outputs) {
    std::vector<PlacementRule> rules;
    for (int dim = 0; dim < dims; ++dim)
        rules.push_back({std::vector<Placement>(inputs, Placement::shard(dim)),
                         std::vector<Placement>(outputs, Placement::shard(dim))});
    return rules;
}

} // namespace tessera
