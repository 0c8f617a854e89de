// SPDX-License-Identifier: Apache-2.0
// The memory of a rank: one buffer per kind, as large as the plan says. Allocated once, before the first step.
#pragma once

#include "core/plan/plan.hpp"
#include "kernels/memory.hpp"
#include "parallel/communication/groups.hpp"

namespace tessera {

class Memory {
public:
    // Called by all ranks together; the memory is where the stream works, and gradients lie where the data axis's
    // communicator reaches them fastest. The kind `data` is not held here but by the loaders.
    Memory(const MemoryNeed& need, const Layout& layout, Groups& groups, const Stream& stream);

    View view(MemoryKind kind, std::int64_t offset, const TensorType& type) const;
    View workspace(std::int64_t bytes) const { return view(MemoryKind::workspace, 0, {{bytes / 4}, DType::f32}); }
    const MemoryNeed& allocated() const { return allocated_; }

private:
    std::array<Buffer, memory_kinds> buffers_;
    MemoryNeed allocated_;
};

} // namespace tessera
