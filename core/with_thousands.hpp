// SPDX-License-Identifier: Apache-2.0
// Large numbers for people.
#pragma once

#include <cstdint>
#include <string>

namespace tessera {

std::string with_thousands(std::int64_t number); // "1,234,567"
std::string in_binary_units(std::int64_t bytes); // "512.00 MiB", from 1 GiB on "80.00 GiB"

} // namespace tessera
