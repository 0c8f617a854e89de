// SPDX-License-Identifier: Apache-2.0
// What the plan must know of communicators without having one.
#include "parallel/communication/communicator.hpp"

#include <algorithm>

namespace tessera {
namespace {

constexpr std::int64_t full_slice = std::int64_t{1} << 20; // bytes from each rank at a time: MPI is at full speed here

} // namespace

std::int64_t tree_reduce_workspace_bytes(std::int64_t bytes, int ranks, bool one_host) {
    if (one_host || ranks == 1) return 0;
    return (ranks - 1) * std::min(full_slice, align_up((bytes + ranks - 1) / ranks));
}

} // namespace tessera
