// SPDX-License-Identifier: Apache-2.0
// What back ends have in common, and what the plan must know of communicators without having one.
#include "parallel/communication/communicator.hpp"

#include "kernels/error.hpp"

#include <algorithm>

namespace tessera {
namespace {

constexpr std::int64_t mebibyte = std::int64_t{1} << 20;
constexpr std::int64_t full_slice = mebibyte; // bytes from each rank at a time: MPI is at full speed here
// Bytes from all ranks at a time: at 300 GB/s some 0.4 ms, beside which the launches of a piece (30 us) are small.
constexpr std::int64_t full_piece = 128 * mebibyte;

} // namespace

void Communicator::wait(Stream& stream, Seconds) {
    std::visit([](const auto& s) { s.wait(); }, stream);
}

Communicator::Ticket Communicator::post(Stream&, ConstView, int, int) {
    throw InternalError("these ranks have no messages that do not wait");
}

Communicator::Ticket Communicator::expect(Stream&, View, int, int) {
    throw InternalError("these ranks have no messages that do not wait");
}

Communicator::Ticket Communicator::begin_all_gather(Stream& stream, ConstView part, View whole, const Parts& parts) {
    all_gather(stream, part, whole, parts);
    return -1; // nobody's
}

Buffer Communicator::allocate(const Stream& stream, std::int64_t bytes) {
    return std::visit([&](const auto& s) { return tessera::allocate(s, bytes); }, stream);
}

BackEnd back_end_for(const Stream& stream, bool shares_memory) {
    if (!std::holds_alternative<CpuStream>(stream)) return BackEnd::nccl;
    return shares_memory ? BackEnd::shared_memory : BackEnd::mpi;
}

std::int64_t tree_reduce_workspace_bytes(std::int64_t bytes, int ranks, BackEnd back_end) {
    if (back_end == BackEnd::shared_memory || ranks == 1) return 0;
    const std::int64_t full =
        back_end == BackEnd::nccl ? std::max(mebibyte, align_up(full_piece / (ranks - 1))) : full_slice;
    return (ranks - 1) * std::min(full, align_up((bytes + ranks - 1) / ranks));
}

} // namespace tessera
