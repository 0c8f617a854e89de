// SPDX-License-Identifier: Apache-2.0
// In what two checkpoints differ, tensor by tensor.
#pragma once

#include "core/checkpoint/checkpoint.hpp"

#include <string>
#include <vector>

namespace tessera {

// A tensor that is not the same in both. Where there is a reason ("(65, 128) f32 in A, (70, 128) f32 in B") the
// elements were not compared.
struct TensorDifference {
    std::string name;
    std::string reason;
    std::int64_t elements = 0;            // that differ in a bit
    std::int64_t of = 0;                  // elements in all
    std::vector<std::int64_t> first;      // index of the first that differs
    double in_a = 0, in_b = 0;            // and its values
    double largest_absolute = 0;          // |a - b|; infinite where one is not a number
    double largest_relative = 0;          // |a - b| / max(|a|, |b|)
    std::vector<std::int64_t> largest_at; // index of the largest absolute one
};

// In the order of A's tensors, then those that only B has. Throws as Checkpoint::read does.
std::vector<TensorDifference> compare(const Checkpoint& a, const Checkpoint& b);

// The differences as text for people, at most `most` tensors of them, the first in full; then step and metadata, where
// they differ.
std::string describe_differences(const Checkpoint& a, const Checkpoint& b, const std::vector<TensorDifference>& found,
                                 std::size_t most = 20);

} // namespace tessera
