// SPDX-License-Identifier: Apache-2.0
// Allocation of what the plan asks for, and the check that nothing reaches beyond it.
#include "core/run/memory.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {

namespace {

// What each rank has: communicators want as much on all, but stages of a pipeline, and ranks that hold parts of uneven
// size, plan for sums of their own.
std::int64_t common_bytes(std::int64_t bytes, const Mesh& mesh, Groups& groups) {
    if (mesh.size() == 1) return bytes;
    auto units = static_cast<std::int32_t>(bytes / alignment_bytes);
    Stream host = CpuStream(1);
    groups.all().all_reduce(host, View(&units, {}, DType::i32), Reduction::min);
    return units * std::int64_t{alignment_bytes};
}

} // namespace

Memory::Memory(const MemoryNeed& need, const Layout& layout, Groups& groups, const Stream& stream) {
    Communicator& data_axis = groups.axis(layout.data_axis);
    for (std::size_t i = 0; i < memory_kinds; ++i) {
        const auto kind = static_cast<MemoryKind>(i);
        if (kind == MemoryKind::data || kind == MemoryKind::checkpoint) continue; // loader's and saver's
        buffers_[i] = kind == MemoryKind::gradients
                          ? data_axis.allocate(stream, need[kind])
                          : std::visit([&](const auto& s) { return tessera::allocate(s, need[kind]); }, stream);
        allocated_[kind] = buffers_[i].bytes();
    }
    const std::int64_t bytes =
        common_bytes(need[MemoryKind::communication] / std::max(layout.mesh.shared_axes(), 1), layout.mesh, groups);
    std::int64_t offset = 0;
    for (int axis = 0; axis < layout.mesh.axis_count(); ++axis) {
        if (layout.mesh.axis(axis).size == 1) continue;
        groups.axis(axis).use_workspace(view(MemoryKind::communication, offset, {{bytes / 4}, DType::f32}));
        offset += bytes;
    }
}

View Memory::view(MemoryKind kind, std::int64_t offset, const TensorType& type) const {
    const Buffer& buffer = buffers_[static_cast<std::size_t>(kind)];
    if (offset < 0 || offset + type.bytes() > buffer.bytes())
        throw InternalError(fmt::format("{} bytes at {} of {} lie outside its {} bytes", type.bytes(), offset,
                                        name_of(kind), buffer.bytes()));
    return {buffer.data() + offset, type.shape, type.dtype};
}

} // namespace tessera
