// SPDX-License-Identifier: Apache-2.0
// Which GPU each rank of a host uses, asked before NCCL fails on those that share one and leaves the others waiting.
#include "kernels/cuda/device.hpp"
#include "kernels/error.hpp"
#include "parallel/communication/nccl.hpp"

#include <cstring>
#include <fmt/format.h>
#include <nccl.h>

namespace tessera {
namespace {

struct Place {
    int rank = 0;
    int device = 0;
    char bus[32] = ""; // the same for one GPU, whatever number each process knows it by
};

// The first pair of neighbours on one GPU as a sentence, or "".
std::string shared_gpu(const World& world, const CudaStream& stream) {
    const ProcessGroup neighbours = world.group().on_this_host();
    Place own{world.rank(), stream.device(), ""};
    cuda::check(cudaDeviceGetPCIBusId(own.bus, sizeof own.bus, own.device), "cudaDeviceGetPCIBusId");
    std::vector<Place> places;
    std::string sentence;
    for (int neighbour = 0; neighbour < neighbours.size(); ++neighbour) {
        Place place = own;
        neighbours.broadcast(&place, sizeof place, neighbour);
        for (const Place& other : places)
            if (sentence.empty() && std::strcmp(other.bus, place.bus) == 0)
                sentence = fmt::format("ranks {} and {} on {} both use GPU {} ({}): NCCL needs one GPU per rank; start "
                                       "as many ranks there as it has GPUs ({} are visible)",
                                       other.rank, place.rank, world.host(), other.device, other.bus, gpu_count());
        places.push_back(place);
    }
    return sentence;
}

} // namespace

void check_one_gpu_per_rank(const World& world, const CudaStream& stream) {
    int version = 0;
    if (ncclGetVersion(&version) == ncclSuccess && version == 0) return; // the tests' substitute: ranks may share
    const std::string sentence = shared_gpu(world, stream);
    const ProcessGroup& group = world.group();
    const std::int64_t speaker = group.size() - group.largest(sentence.empty() ? 0 : group.size() - group.rank());
    if (speaker == group.size()) return;
    char text[512] = "";
    sentence.copy(text, sizeof text - 1);
    group.broadcast(text, sizeof text, static_cast<int>(speaker));
    throw ConfigError(text);
}

} // namespace tessera
