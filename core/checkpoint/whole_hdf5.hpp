// SPDX-License-Identifier: Apache-2.0
// One plain HDF5 file of a checkpoint's tensors, for programs that read HDF5 but no virtual datasets.
#pragma once

#include "core/checkpoint/checkpoint.hpp"
#include "core/checkpoint/durable_files.hpp"

namespace tessera {

// Writes into `file`, which is new, each tensor as one contiguous dataset, optimizer states only if `states` is set,
// and step and metadata as the texts /metadata/KEY. Throws SystemError when it cannot be written.
void write_whole_hdf5(const Checkpoint& checkpoint, const File& file, bool states);

} // namespace tessera
