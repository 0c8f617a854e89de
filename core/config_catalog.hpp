// SPDX-License-Identifier: Apache-2.0
// The one list of every key that a config file may hold. Each key is declared by the component that reads it.
#pragma once

#include "core/config.hpp"

namespace tessera {

std::vector<KeyInfo> known_keys(); // in alphabetical order

} // namespace tessera
