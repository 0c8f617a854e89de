// SPDX-License-Identifier: Apache-2.0
// Splits the world by the axes of the mesh and picks a back end for each part.
#include "parallel/communication/groups.hpp"

#include "kernels/error.hpp"
#include "parallel/communication/local.hpp"
#include "parallel/communication/make_communicator.hpp"
#include "parallel/communication/mpi.hpp"
#include "parallel/communication/nccl.hpp"
#include "parallel/communication/shared_memory.hpp"
#include "parallel/communication/world.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

std::unique_ptr<Communicator> on_host(ProcessGroup group, bool shared_memory) {
    if (group.size() == 1) return make_local_communicator();
    const bool one_host = group.all(group.on_this_host().size() == group.size());
    if (shared_memory && one_host) return make_shared_memory_communicator(std::move(group));
    return make_mpi_communicator(std::move(group));
}

// The communicators of axes of more than one rank, for ranks that compute on such a stream.
template <class AnyStream>
std::vector<std::unique_ptr<Communicator>> along_axes(const AnyStream& stream, const World& world,
                                                      std::vector<AxisRanks> axes, bool shared_memory, SumOrder order,
                                                      bool shared_gpus) {
    if constexpr (std::is_same_v<AnyStream, CpuStream>) {
        std::vector<std::unique_ptr<Communicator>> communicators;
        for (AxisRanks& ranks : axes)
            communicators.push_back(on_host(std::move(ranks.group), shared_memory));
        return communicators;
    } else {
        if (!shared_gpus) check_one_gpu_per_rank(world, stream);
        return make_nccl_communicators(stream, axes, order);
    }
}

} // namespace

std::unique_ptr<Communicator> make_communicator(ProcessGroup group, const std::string& name, const Stream& stream,
                                                bool shared_memory) {
    return std::visit(
        [&](const auto& s) -> std::unique_ptr<Communicator> {
            if constexpr (std::is_same_v<std::remove_cvref_t<decltype(s)>, CpuStream>) {
                return on_host(std::move(group), shared_memory);
            } else {
                if (group.size() == 1) return make_local_communicator();
                std::vector<AxisRanks> ranks;
                ranks.push_back({name, std::move(group)});
                return std::move(make_nccl_communicators(s, ranks, SumOrder::tree).front());
            }
        },
        stream);
}

Groups::Groups(const World& world, const Mesh& mesh, const Stream& stream, bool shared_memory, SumOrder order,
               bool shared_gpus, std::optional<Watch> watch) {
    if (mesh.size() != world.size())
        throw ConfigError(fmt::format("the mesh ({}) has {} ranks, but the launcher started {}", mesh.text(),
                                      mesh.size(), world.size()));
    const bool on_cpus = std::holds_alternative<CpuStream>(stream);
    if (!world.group().all(on_cpus) && !world.group().all(!on_cpus))
        throw ConfigError(fmt::format("rank {} on {} computes on a {}, which not all ranks do", world.rank(),
                                      world.host(), on_cpus ? "CPU" : "GPU"));
    if (watch) recorder_ = &watch->recorder;
    const ProcessGroup& everybody = world.group();
    all_ = own_recorded(on_host(everybody.split(0, world.rank()), shared_memory), {0, "all ranks"}, watch,
                        [&] { return everybody.split(0, world.rank()); });
    const std::vector<int> coordinate = mesh.coordinate(world.rank());
    std::vector<AxisRanks> connected;
    std::vector<std::size_t> places; // of these among the axes
    for (int axis = 0; axis < mesh.axis_count(); ++axis) {
        const int size = mesh.axis(axis).size;
        axes_.push_back(on_cpus && size == mesh.size() ? all_ : nullptr);
        if (axes_.back() != nullptr) continue;
        if (size == 1) {
            axes_.back() = own(make_local_communicator());
            continue;
        }
        const int first = mesh.group(world.rank(), axis).front(); // names the group among its parallels
        const int place = coordinate[static_cast<std::size_t>(axis)];
        connected.push_back({mesh.axis(axis).name, world.group().split(first, place)});
        places.push_back(axes_.size() - 1);
    }
    std::vector<std::unique_ptr<Communicator>> made = std::visit(
        [&](const auto& s) { return along_axes(s, world, std::move(connected), shared_memory, order, shared_gpus); },
        stream);
    for (std::size_t i = 0; i < made.size(); ++i)
        axes_[places[i]] =
            own_recorded(std::move(made[i]), recorded_axis(mesh, static_cast<int>(places[i])), watch, [&] {
                const int axis = static_cast<int>(places[i]);
                return everybody.split(mesh.group(world.rank(), axis).front(), coordinate[places[i]]);
            });
}

Groups::Groups(const Mesh& mesh) {
    if (mesh.size() != 1)
        throw ConfigError(fmt::format("the mesh ({}) has {} ranks, but there is one", mesh.text(), mesh.size()));
    all_ = own(make_local_communicator());
    axes_.assign(static_cast<std::size_t>(mesh.axis_count()), all_);
}

Groups::Groups(const Mesh& mesh, Communicator& communicator) : all_(&communicator) {
    if (mesh.size() != communicator.size())
        throw ConfigError(
            fmt::format("the mesh ({}) has {} ranks, but there are {}", mesh.text(), mesh.size(), communicator.size()));
    for (int axis = 0; axis < mesh.axis_count(); ++axis) {
        const int size = mesh.axis(axis).size;
        if (size != 1 && size != mesh.size())
            throw InternalError(fmt::format("one communicator cannot serve the mesh ({})", mesh.text()));
        axes_.push_back(size == mesh.size() ? all_ : own(make_local_communicator()));
    }
}

Groups::Groups(Communicator& all, const std::vector<Communicator*>& axes) : all_(&all) {
    for (Communicator* const axis : axes)
        axes_.push_back(axis != nullptr ? axis : own(make_local_communicator()));
}

void Groups::wait(Stream& stream, Seconds patience) {
    for (Communicator* const axis : axes_) // one rank alone knows no more than the stream does
        if (axis->size() > 1) axis->wait(stream, patience);
    std::visit([](const auto& s) { s.wait(); }, stream);
}

RecordedAxis recorded_axis(const Mesh& mesh, int axis) {
    return {axis + 1, fmt::format("the axis '{}'", mesh.axis(axis).name)};
}

// A comparison has messages of its own: `again` makes a group of the same ranks.
Communicator* Groups::own_recorded(std::unique_ptr<Communicator> communicator, RecordedAxis axis,
                                   const std::optional<Watch>& watch, const std::function<ProcessGroup()>& again) {
    if (!watch || communicator->size() == 1) return own(std::move(communicator));
    std::optional<ProcessGroup> check;
    if (watch->check) check = again();
    return own(make_recorded_communicator(std::move(communicator), std::move(axis), watch->recorder, std::move(check)));
}

Communicator* Groups::own(std::unique_ptr<Communicator> communicator) {
    return owned_.emplace_back(std::move(communicator)).get();
}

} // namespace tessera
