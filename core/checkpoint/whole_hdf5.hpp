// SPDX-License-Identifier: Apache-2.0
// One plain HDF5 file of a checkpoint's tensors, for programs that read HDF5 but no virtual datasets.
#pragma once

#include "core/checkpoint/checkpoint.hpp"

#include <string>

namespace tessera {

// Creates `path` with each tensor as one contiguous dataset, optimizer states only if `states` is set, the metadata as
// /metadata/KEY and the step as an attribute; f32 (and i32) as they are, bf16 as in the ranks' files. Synced by who
// called. Throws SystemError when it cannot be written.
void write_whole_hdf5(const Checkpoint& checkpoint, const std::string& path, bool states);

} // namespace tessera
