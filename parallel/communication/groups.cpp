// SPDX-License-Identifier: Apache-2.0
// Splits the world by the axes of the mesh and picks a back end for each part.
#include "parallel/communication/groups.hpp"

#include "kernels/error.hpp"
#include "parallel/communication/local.hpp"
#include "parallel/communication/mpi.hpp"
#include "parallel/communication/shared_memory.hpp"
#include "parallel/communication/world.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

std::unique_ptr<Communicator> communicator_for(ProcessGroup group, bool shared_memory) {
    if (group.size() == 1) return make_local_communicator();
    const bool one_host = group.all(group.on_this_host().size() == group.size());
    if (shared_memory && one_host) return make_shared_memory_communicator(std::move(group));
    return make_mpi_communicator(std::move(group));
}

} // namespace

Groups::Groups(const World& world, const Mesh& mesh, bool shared_memory) {
    if (mesh.size() != world.size())
        throw ConfigError(fmt::format("the mesh ({}) has {} ranks, but the launcher started {}", mesh.text(),
                                      mesh.size(), world.size()));
    all_ = own(communicator_for(world.group().split(0, world.rank()), shared_memory));
    const std::vector<int> coordinate = mesh.coordinate(world.rank());
    for (int axis = 0; axis < mesh.axis_count(); ++axis) {
        const int size = mesh.axis(axis).size;
        if (size == mesh.size()) {
            axes_.push_back(all_);
            continue;
        }
        const int first = mesh.group(world.rank(), axis).front(); // names the group among its parallels
        const int place = coordinate[static_cast<std::size_t>(axis)];
        axes_.push_back(own(communicator_for(world.group().split(first, place), shared_memory)));
    }
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

Communicator* Groups::own(std::unique_ptr<Communicator> communicator) {
    return owned_.emplace_back(std::move(communicator)).get();
}

} // namespace tessera
