// SPDX-License-Identifier: Apache-2.0
// Commas between thousands; bytes in the unit that fits.
#include "core/with_thousands.hpp"

#include <fmt/format.h>

namespace tessera {

std::string with_thousands(std::int64_t number) {
    std::string text = std::to_string(number);
    for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > (number < 0 ? 1 : 0); at -= 3)
        text.insert(static_cast<std::size_t>(at), ",");
    return text;
}

std::string in_binary_units(std::int64_t bytes) {
    const bool large = bytes >= std::int64_t{1} << 30;
    return fmt::format("{:.2f} {}", static_cast<double>(bytes) / (large ? 0x1p30 : 0x1p20), large ? "GiB" : "MiB");
}

} // namespace tessera
