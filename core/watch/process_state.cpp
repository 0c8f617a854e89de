// SPDX-License-Identifier: Apache-2.0
// /proc/PID/stat: number (name) state and then numbers, of which the 20th is the time of start. The name may hold
// anything.
#include "core/watch/process_state.hpp"

#include <fmt/format.h>
#include <fstream>
#include <sstream>
#include <string>

namespace tessera {

ProcessState process_state(std::int64_t pid) {
    std::ifstream file(fmt::format("/proc/{}/stat", pid));
    std::string text;
    std::getline(file, text, '\0');
    const std::size_t name_end = text.rfind(')');
    if (name_end == std::string::npos) return {};
    std::istringstream words(text.substr(name_end + 1));
    ProcessState found;
    words >> found.state;
    std::string word;
    constexpr int numbers_before = 18; // between the state and the time of start
    for (int i = 0; i < numbers_before; ++i)
        words >> word;
    words >> found.started;
    return words ? found : ProcessState{};
}

} // namespace tessera
