// SPDX-License-Identifier: Apache-2.0
// Text from a file that nobody has checked, on its way to a terminal.
#pragma once

#include <string>
#include <string_view>

namespace tessera {

// Control characters but for line ends and tabs as \xHH: none of them reaches a terminal, which would obey it.
std::string visible(std::string_view text);

} // namespace tessera
