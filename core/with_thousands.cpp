// SPDX-License-Identifier: Apache-2.0
// Commas between thousands.
#include "core/with_thousands.hpp"

namespace tessera {

std::string with_thousands(std::int64_t number) {
    std::string text = std::to_string(number);
    for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > (number < 0 ? 1 : 0); at -= 3)
        text.insert(static_cast<std::size_t>(at), ",");
    return text;
}

} // namespace tessera
