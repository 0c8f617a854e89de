// SPDX-License-Identifier: Apache-2.0
// The signal handlers. A handler may touch nothing but a flag of its own, so the flag has static storage.
#include "core/run/stop_request.hpp"

#include "core/exit_codes.hpp"

#include <csignal>
#include <cstdlib>

namespace tessera {
namespace {

volatile std::sig_atomic_t asked = 0;

void ask(int signal) {
    if (asked != 0 && signal == SIGINT) std::_Exit(exit_code::interrupted);
    asked = 1;
}

constexpr int signals[] = {SIGUSR1, SIGTERM, SIGINT};

} // namespace

StopRequest::StopRequest() {
    asked = 0;
    for (const int signal : signals)
        std::signal(signal, ask);
}

StopRequest::~StopRequest() {
    for (const int signal : signals)
        std::signal(signal, SIG_DFL);
}

bool StopRequest::anywhere(Communicator& all, Stream& stream) const {
    std::int32_t flag = asked != 0 ? 1 : 0;
    all.all_reduce(stream, View(&flag, {}, DType::i32), Reduction::max);
    return flag != 0;
}

} // namespace tessera
