// SPDX-License-Identifier: Apache-2.0
// Reads the environment variables of the emulation.
#include "tests/cuda_emulation/settings.hpp"

#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>

namespace tessera::emulation {
namespace {

std::string text(const char* name) {
    const char* value = std::getenv((std::string("TESSERA_EMULATION_") + name).c_str());
    return value == nullptr ? "" : value;
}

std::uint64_t number(const char* name, const std::string& value, std::uint64_t least, std::uint64_t most) {
    std::size_t used = 0;
    std::uint64_t result = 0;
    if (!value.empty() && value[0] >= '0' && value[0] <= '9') result = std::stoull(value, &used);
    if (used == 0 || used != value.size() || result < least || result > most)
        throw std::runtime_error(std::string("TESSERA_EMULATION_") + name + " is '" + value + "'");
    return result;
}

Settings read() {
    Settings result;
    if (const std::string value = text("ORDER"); value == "reverse") {
        result.order = Order::reverse;
    } else if (!value.empty() && value != "forward") {
        result.order = Order::random;
        result.order_seed = number("ORDER", value, 0, UINT32_MAX);
    }
    if (const std::string value = text("STREAMS"); value == "lazy") {
        result.schedule = Schedule::lazy;
    } else if (value == "threads") {
        result.schedule = Schedule::threaded;
    } else if (!value.empty() && value != "eager") {
        result.schedule = Schedule::shuffled;
        result.schedule_seed = number("STREAMS", value, 0, UINT32_MAX);
    }
    if (const std::string value = text("PROTECT"); !value.empty()) result.protect = number("PROTECT", value, 0, 1) == 1;
    if (const std::string value = text("MEMORY"); !value.empty())
        result.memory = number("MEMORY", value, 0, UINT64_MAX);
    if (const std::string value = text("DEVICES"); !value.empty())
        result.devices = static_cast<int>(number("DEVICES", value, 0, 1024));
    if (const std::string value = text("CAPABILITY"); !value.empty())
        result.capability = static_cast<int>(number("CAPABILITY", value, 80, 120));
    if (const std::string value = text("FILL"); !value.empty())
        result.fill = static_cast<int>(number("FILL", value, 0, 255));
    return result;
}

} // namespace

const Settings& settings() {
    static const Settings result = read();
    return result;
}

void slow_down(const char* what, int milliseconds) {
    if (text("SLOW") == what) std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

} // namespace tessera::emulation
