// SPDX-License-Identifier: Apache-2.0
// Whether all ranks see one folder.
#pragma once

#include "core/checkpoint/checkpoint.hpp"

#include <string>

namespace tessera {

// The folder, or the nearest above it that is there.
std::string existing_folder(const std::string& folder);

// Rank 0 writes a file into `folder`, all read it, and it is removed. Why this rank does not see it, or "". Called by
// all ranks together. File systems over a network may take some seconds to show a new file: so long is waited.
std::string try_folder(const Team& team, const std::string& folder);

} // namespace tessera
