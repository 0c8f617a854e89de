// SPDX-License-Identifier: Apache-2.0
// Writes the data of slabs past the system's cache where it can, by two threads, and hashes it on the way.
#pragma once

#include "core/checkpoint/durable_files.hpp"
#include "core/checkpoint/manifest.hpp"

#include <atomic>
#include <vector>

namespace tessera {

struct SlabToWrite {
    ConstView data;
    Slab* slab; // knows its first byte; receives its hashes
};

// Into `file`, which exists in its full size. Throws SystemError, one also when `given_up` becomes true meanwhile.
void write_slabs(const File& file, const std::vector<SlabToWrite>& slabs, const std::atomic<bool>& given_up);

} // namespace tessera
