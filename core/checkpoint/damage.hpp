// SPDX-License-Identifier: Apache-2.0
// All that is damaged in a checkpoint: what `tessera checkpoint verify` prints.
#pragma once

#include "core/checkpoint/checkpoint.hpp"

#include <string>
#include <vector>

namespace tessera {

// Reads every block of every file. One sentence for each tensor or file that is damaged or missing; none: it is whole.
// `folder` may be no checkpoint at all, which is a sentence, too. Throws SystemError when the system does not let it
// look.
std::vector<std::string> damage_of(const std::string& folder);

} // namespace tessera
