// SPDX-License-Identifier: Apache-2.0
// The only file that includes hwloc.
#include "launcher/job/host_shape.hpp"

#include "kernels/error.hpp"
#include "launcher/command_line.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hwloc.h>
#include <sstream>

namespace tessera {
namespace {

constexpr unsigned display_class = 0x03; // first byte of a PCI class: VGA and 3D controllers
constexpr unsigned nvidia = 0x10de;
constexpr int most_number = 1 << 24; // of a core, a node or a GPU

class Topology {
public:
    Topology() {
        if (hwloc_topology_init(&topology_) != 0) throw SystemError("hwloc cannot start");
        hwloc_topology_set_io_types_filter(topology_, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    }
    Topology(const Topology&) = delete;
    Topology& operator=(const Topology&) = delete;
    ~Topology() { hwloc_topology_destroy(topology_); }

    void load() const {
        if (hwloc_topology_load(topology_) != 0) throw SystemError("hwloc cannot read the host's topology");
    }
    hwloc_topology_t get() const { return topology_; }

private:
    hwloc_topology_t topology_ = nullptr;
};

int node_of(hwloc_obj_t object) {
    if (object == nullptr || object->nodeset == nullptr) return -1;
    return hwloc_bitmap_first(object->nodeset);
}

HostShape shape_of(const Topology& topology) {
    HostShape shape;
    hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(topology.get());
    // Machines that do not tell their cores (some containers) tell their hardware threads.
    const int cores = hwloc_get_nbobjs_by_type(topology.get(), HWLOC_OBJ_CORE);
    const hwloc_obj_type_t type = cores > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    for (hwloc_obj_t core = nullptr; (core = hwloc_get_next_obj_by_type(topology.get(), type, core)) != nullptr;)
        if (hwloc_bitmap_intersects(core->cpuset, allowed))
            shape.cores.push_back({hwloc_bitmap_first(core->cpuset), std::max(node_of(core), 0)});
    if (shape.cores.empty()) throw SystemError("hwloc finds no core that this process may use");
    for (hwloc_obj_t device = nullptr; (device = hwloc_get_next_pcidev(topology.get(), device)) != nullptr;) {
        const auto& pci = device->attr->pcidev;
        if (pci.class_id >> 8 != display_class || pci.vendor_id != nvidia) continue;
        const hwloc_obj_t near = hwloc_get_non_io_ancestor_obj(topology.get(), device);
        const bool everywhere = near == nullptr || near->type == HWLOC_OBJ_MACHINE;
        const bool one_node = hwloc_get_nbobjs_by_type(topology.get(), HWLOC_OBJ_NUMANODE) == 1;
        shape.gpus.push_back({fmt::format("{:04x}:{:02x}:{:02x}.{:x}", pci.domain, pci.bus, pci.dev, pci.func),
                              everywhere && !one_node ? -1 : node_of(near)});
    }
    std::sort(shape.gpus.begin(), shape.gpus.end(), [](const auto& a, const auto& b) { return a.address < b.address; });
    return shape;
}

// CUDA stops reading the list at the first thing that is no GPU's number.
std::vector<HostShape::Gpu> seen(const std::vector<HostShape::Gpu>& gpus, const std::string& visible) {
    std::vector<HostShape::Gpu> result;
    std::istringstream words(visible);
    for (std::string word; std::getline(words, word, ',');) {
        if (word.empty() || word.find_first_not_of("0123456789") != std::string::npos || word.size() > 6) break;
        const auto number = static_cast<std::size_t>(std::stoul(word));
        if (number >= gpus.size()) break;
        result.push_back(gpus[number]);
    }
    return result;
}

// "17@1" or "0000:3b:00.0@1"
std::pair<std::string, int> parse_place(const std::string& word) {
    const std::size_t at = word.find('@');
    if (at == std::string::npos || at == 0)
        throw ConfigError(fmt::format("'{}' is no description of a host: expected NUMBER@NODE", word));
    return {word.substr(0, at), static_cast<int>(parse_integer("NUMA node", word.substr(at + 1), -1, most_number))};
}

} // namespace

HostShape shape_of_this_host(const std::string& visible) {
    const Topology topology;
    // A launcher that was started on some of the cores leaves its ranks no others.
    hwloc_topology_set_flags(topology.get(),
                             HWLOC_TOPOLOGY_FLAG_RESTRICT_TO_CPUBINDING | HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM);
    topology.load();
    HostShape shape = shape_of(topology);
    if (!visible.empty()) shape.gpus = seen(shape.gpus, visible);
    return shape;
}

HostShape shape_of_synthetic(const std::string& description) {
    const Topology topology;
    if (hwloc_topology_set_synthetic(topology.get(), description.c_str()) != 0)
        throw ConfigError(fmt::format("'{}' is no topology in hwloc's notation", description));
    topology.load();
    return shape_of(topology);
}

HostShape shape_of_xml(const std::string& xml) {
    const Topology topology;
    if (hwloc_topology_set_xmlbuffer(topology.get(), xml.c_str(), static_cast<int>(xml.size()) + 1) != 0)
        throw ConfigError("the text is no topology in hwloc's XML");
    topology.load();
    return shape_of(topology);
}

void bind_to(const std::vector<int>& cores) {
    const Topology topology;
    topology.load();
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    for (const int number : cores) {
        const hwloc_obj_t unit = hwloc_get_pu_obj_by_os_index(topology.get(), static_cast<unsigned>(number));
        const hwloc_obj_t core =
            unit == nullptr ? nullptr : hwloc_get_ancestor_obj_by_type(topology.get(), HWLOC_OBJ_CORE, unit);
        if (unit != nullptr) hwloc_bitmap_or(set, set, core == nullptr ? unit->cpuset : core->cpuset);
    }
    const bool bound = hwloc_set_cpubind(topology.get(), set, HWLOC_CPUBIND_PROCESS) == 0;
    const int error = errno;
    hwloc_bitmap_free(set);
    if (!bound)
        throw SystemError(fmt::format("cannot bind to cores {}: {}", fmt::join(cores, ","), std::strerror(error)));
}

std::string text_of(const HostShape& shape) {
    std::string text = "cores";
    for (const HostShape::Core& core : shape.cores)
        text += fmt::format(" {}@{}", core.number, core.node);
    text += " gpus";
    for (const HostShape::Gpu& gpu : shape.gpus)
        text += fmt::format(" {}@{}", gpu.address, gpu.node);
    return text;
}

HostShape parse_shape(const std::string& text) {
    HostShape shape;
    std::istringstream words(text);
    std::string kind;
    for (std::string word; words >> word;) {
        if (word == "cores" || word == "gpus") {
            kind = word;
            continue;
        }
        const auto [what, node] = parse_place(word);
        if (kind == "cores")
            shape.cores.push_back({static_cast<int>(parse_integer("core", what, 0, most_number)), node});
        else if (kind == "gpus")
            shape.gpus.push_back({what, node});
        else
            throw ConfigError(fmt::format("'{}' is no description of a host", text));
    }
    if (shape.cores.empty()) throw ConfigError(fmt::format("'{}' is no description of a host: it has no cores", text));
    return shape;
}

} // namespace tessera
