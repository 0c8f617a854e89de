// SPDX-License-Identifier: Apache-2.0
// The communicators of ranks with a GPU each, on any hosts.
#pragma once

#include "parallel/communication/communicator.hpp"
#include "parallel/communication/process_group.hpp"
#include "parallel/communication/world.hpp"

#include <memory>
#include <string>
#include <vector>

namespace tessera {

// An axis of the mesh, and the ranks along it that this rank belongs to.
struct AxisRanks {
    std::string axis;
    ProcessGroup group;
};

// One communicator for each axis, in their order; collective over each group. When one of them fails, all end.
std::vector<std::unique_ptr<Communicator>> make_nccl_communicators(const CudaStream& stream,
                                                                   const std::vector<AxisRanks>& axes, SumOrder order);

// Collective over the world. Throws ConfigError on all ranks when two use one GPU, which NCCL refuses.
void check_one_gpu_per_rank(const World& world, const CudaStream& stream);

} // namespace tessera
