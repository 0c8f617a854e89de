// SPDX-License-Identifier: Apache-2.0
// Large numbers for people.
#pragma once

#include <cstdint>
#include <string>

namespace tessera {

std::string with_thousands(std::int64_t number); // "1,234,567"

} // namespace tessera
