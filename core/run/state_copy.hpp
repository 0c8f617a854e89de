// SPDX-License-Identifier: Apache-2.0
// A copy in the host's memory of all that a rank carries from step to step.
#pragma once

#include "core/run/weights.hpp"

#include <map>

namespace tessera {

class StateCopy {
public:
    // Bytes that a copy takes: what the rank holds of weights and optimizer states, also of those that others hold,
    // too.
    static std::int64_t bytes_for(const Program& program);

    // Allocates it, and touches its pages. Both outlive the copy. SystemError where there is no memory.
    StateCopy(const Program& program, const Executor& executor);

    void take();           // after all work of the executor's stream
    void put_back() const; // the same bits; once something was taken

    View view(ValueId id) const { return views_.at(id); } // of the copy
    std::int64_t bytes() const { return memory_.bytes(); }

private:
    const Executor& executor_;
    Buffer memory_;
    std::map<ValueId, View> views_;
};

} // namespace tessera
