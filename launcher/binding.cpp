// SPDX-License-Identifier: Apache-2.0
// Cores from hwloc (the only file that includes it), and the arithmetic of ranks, threads and cores.
#include "launcher/binding.hpp"

#include "kernels/error.hpp"
#include "launcher/command_line.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <hwloc.h>

namespace tessera {
namespace {

class Topology {
public:
    Topology() {
        if (hwloc_topology_init(&topology_) != 0) throw SystemError("hwloc cannot start");
        if (hwloc_topology_load(topology_) != 0) {
            hwloc_topology_destroy(topology_);
            throw SystemError("hwloc cannot read this host's topology");
        }
    }
    Topology(const Topology&) = delete;
    Topology& operator=(const Topology&) = delete;
    ~Topology() { hwloc_topology_destroy(topology_); }

    hwloc_topology_t get() const { return topology_; }

private:
    hwloc_topology_t topology_ = nullptr;
};

} // namespace

std::vector<int> usable_cores() {
    const Topology topology;
    hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(topology.get());
    // Machines that do not tell their cores (some containers) tell their hardware threads.
    const int cores = hwloc_get_nbobjs_by_type(topology.get(), HWLOC_OBJ_CORE);
    const hwloc_obj_type_t type = cores > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    std::vector<int> result;
    for (hwloc_obj_t core = nullptr; (core = hwloc_get_next_obj_by_type(topology.get(), type, core)) != nullptr;)
        if (hwloc_bitmap_intersects(core->cpuset, allowed)) result.push_back(hwloc_bitmap_first(core->cpuset));
    if (result.empty()) throw SystemError("hwloc finds no core that this process may use");
    return result;
}

std::string Binding::note() const {
    if (bound) return "";
    return fmt::format("{} of {} on {}: ranks are not bound and share the cores", counted(ranks, "rank"),
                       counted(threads, "thread"), counted(cores, "core"));
}

Binding choose_binding(std::int64_t ranks, std::int64_t threads, std::int64_t cores) {
    Binding binding{ranks, threads, cores, true};
    if (threads == 0) binding.threads = std::max<std::int64_t>(cores / ranks, 1);
    binding.bound = binding.threads <= cores / ranks; // ranks * threads <= cores, without overflow
    return binding;
}

} // namespace tessera
