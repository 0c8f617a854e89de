// SPDX-License-Identifier: Apache-2.0
// Which elements of a logical tensor a rank holds, and how they compare with the whole.
#pragma once

#include "core/run/executor.hpp"
#include "core/run/experiment.hpp"

namespace tessera {

struct HeldPart {
    Shape whole;
    std::vector<Box> boxes;       // one behind the other in the rank's memory; none: it holds nothing
    Locality::Zigzag zigzag = {}; // a dim of which the boxes count the places (layout/zigzag.hpp)
};

// Of a value as the nodes of a micro-batch leave it.
HeldPart part_in_micro_batch(const Program& program, ValueId id);
// Of a value between micro-batches and update, or between steps; and where it lies.
HeldPart part_at_rest(const Program& program, ValueId id);
View view_at_rest(const Executor& executor, const Plan& plan, ValueId id);

// The largest difference over the largest magnitude of the whole: 0 where all bits are the same, infinity where one of
// two numbers that differ is not finite, or the whole is 0. All memory is the host's; `held` and `whole` have one type.
double distance(const HeldPart& part, ConstView held, ConstView whole);

// Writes the rank's elements of `whole` to `held`.
void take_part(const HeldPart& part, ConstView whole, View held);

} // namespace tessera
