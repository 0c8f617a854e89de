// SPDX-License-Identifier: Apache-2.0
// Writes a rank's file past the system's cache where it can, by two threads, and hashes its slabs on the way.
#pragma once

#include "core/checkpoint/durable_files.hpp"
#include "core/checkpoint/file_image.hpp"
#include "core/checkpoint/manifest.hpp"

#include <atomic>
#include <vector>

namespace tessera {

struct SlabToWrite {
    ConstView data;
    Slab* slab; // knows its first byte; receives its hashes
};

// The whole of `file`, which is empty: what is outside of its slabs, and these. Throws SystemError, one also when
// `given_up` becomes true meanwhile.
void write_slabs(const File& file, const FileImage& outside, const std::vector<SlabToWrite>& slabs,
                 const std::atomic<bool>& given_up);

} // namespace tessera
