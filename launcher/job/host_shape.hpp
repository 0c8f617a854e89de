// SPDX-License-Identifier: Apache-2.0
// What hwloc knows of a host: the cores that this process may use, the NUMA nodes they belong to, and the GPUs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

struct HostShape {
    struct Core {
        int number = 0; // in the system: the first hardware thread
        int node = 0;   // NUMA node, by its number in the system
        bool operator==(const Core&) const = default;
    };
    struct Gpu {
        std::string address; // on the PCI bus, "0000:3b:00.0"; their order is that of CUDA_DEVICE_ORDER=PCI_BUS_ID
        int node = -1;       // nearest NUMA node; -1: not known
        bool operator==(const Gpu&) const = default;
    };
    std::vector<Core> cores; // at least one
    std::vector<Gpu> gpus;
};

// Of this host. Throws SystemError when hwloc cannot say. GPUs are NVIDIA's, as far as `visible` (CUDA_VISIBLE_DEVICES)
// lets them be seen; in the order of that list. Where it names them otherwise than by number, none is known.
HostShape shape_of_this_host(const std::string& visible);
// Of hosts that are only described: hwloc's synthetic notation ("numa:2 core:4 pu:1") or XML (`lstopo --of xml`).
HostShape shape_of_synthetic(const std::string& description);
HostShape shape_of_xml(const std::string& xml);

// Binds this process, and the threads it will start, to all hardware threads of the cores of these numbers.
// SystemError.
void bind_to(const std::vector<int>& cores);

// "cores 0@0 1@0 2@1 3@1 gpus 0000:3b:00.0@1", as one host tells another; and back. ConfigError for anything else.
std::string text_of(const HostShape& shape);
HostShape parse_shape(const std::string& text);

} // namespace tessera
