// SPDX-License-Identifier: Apache-2.0
// The communicators of one rank: one per axis of the mesh, and one over all ranks.
#pragma once

#include "parallel/communication/communicator.hpp"
#include "parallel/communication/recorded.hpp"
#include "parallel/layout/mesh.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace tessera {

class World;

// Tensors travel along an axis, in the memory of the stream that the rank computes on: over NCCL between GPUs.
// Decisions, texts and small host data go to all(), which takes a CpuStream always. An axis of size 1 has a
// communicator of one rank; on CPUs an axis that holds all ranks shares its communicator with all(). All ranks must
// submit their calls to all communicators in one order.
class Groups {
public:
    // Collective over the world. `stream` is what this rank computes on. CPU ranks use shared memory for a communicator
    // whose ranks are on one host where `shared_memory` allows, otherwise MPI. Throws ConfigError when mesh and world
    // differ in size, two ranks use one GPU (unless `shared_gpus`: for a substitute of NCCL, or hosts that only seem to
    // be one), or some compute on a CPU and others on a GPU.
    // With `watch`, which outlives the groups, calls are recorded there.
    struct Watch {
        FlightRecorder& recorder;
        bool check; // and compared between the ranks (recorded.hpp)
    };
    Groups(const World& world, const Mesh& mesh, const Stream& stream, bool shared_memory,
           SumOrder order = SumOrder::tree, bool shared_gpus = false, std::optional<Watch> watch = std::nullopt);

    // One rank alone, without MPI. Throws ConfigError when the mesh has more than one rank.
    explicit Groups(const Mesh& mesh);

    // A mesh with at most one axis above size 1, whose ranks are those of `communicator` (ranks as threads, in tests).
    Groups(const Mesh& mesh, Communicator& communicator);

    // Of a rank that is a thread: communicators by axis, null where the axis has one rank; all outlive it.
    Groups(Communicator& all, const std::vector<Communicator*>& axes);

    Communicator& axis(int index) { return *axes_.at(static_cast<std::size_t>(index)); }
    Communicator& all() { return *all_; }

    // Of this rank; one that nobody reads where the groups were made without.
    FlightRecorder& recorder() { return *recorder_; }

    // Communicator::wait, with an eye on the communicators of all axes.
    void wait(Stream& stream, Seconds patience = forever);

private:
    Communicator* own(std::unique_ptr<Communicator> communicator);
    Communicator* own_recorded(std::unique_ptr<Communicator> communicator, RecordedAxis axis,
                               const std::optional<Watch>& watch, const std::function<ProcessGroup()>& again);

    std::vector<std::unique_ptr<Communicator>> owned_;
    std::vector<Communicator*> axes_;
    Communicator* all_ = nullptr;
    std::unique_ptr<FlightRecorder> unread_ = std::make_unique<FlightRecorder>();
    FlightRecorder* recorder_ = unread_.get();
};

// An axis of the mesh as a rank's recorder counts it: 0 is all ranks.
RecordedAxis recorded_axis(const Mesh& mesh, int axis);

// Runs `body` once per rank of any mesh, each in a thread of its own, as the other run_as_threads (local.hpp) does.
void run_as_threads(const Mesh& mesh, const std::function<void(int rank, Groups groups)>& body);

} // namespace tessera
