// SPDX-License-Identifier: Apache-2.0
// The signal handlers. A handler may touch nothing but a flag of its own, so the flags have static storage.
#include "core/run/stop_request.hpp"

#include "core/exit_codes.hpp"

#include <algorithm>
#include <csignal>
#include <cstdlib>

namespace tessera {
namespace {

constexpr std::chrono::seconds same_request{30};
constexpr int signals[] = {SIGUSR1, SIGUSR2, SIGTERM, SIGINT};

volatile std::sig_atomic_t to_save = 0, to_stop = 0, interrupts = 0;

void ask(int signal) {
    if (signal == SIGINT) {
        if (interrupts != 0) std::_Exit(exit_code::interrupted);
        interrupts = 1;
    }
    (signal == SIGUSR2 ? to_save : to_stop) = 1;
}

} // namespace

StopRequest::StopRequest() {
    to_save = 0;
    to_stop = 0;
    interrupts = 0;
    for (const int signal : signals)
        std::signal(signal, ask);
    if (std::signal(SIGHUP, ask) == SIG_IGN) std::signal(SIGHUP, SIG_IGN); // who was started by nohup goes on
    std::signal(SIGPIPE, SIG_IGN); // nor does a run end because nobody reads what it says
}

StopRequest::~StopRequest() {
    for (const int signal : {SIGUSR1, SIGUSR2}) // too late to save, and no reason to fail
        std::signal(signal, SIG_IGN);
    std::signal(SIGTERM, SIG_DFL);
    if (interrupts == 0) std::signal(SIGINT, SIG_DFL); // otherwise a second still has the same code
}

Request StopRequest::anywhere(Communicator& all, Stream& stream) {
    const auto now = std::chrono::steady_clock::now();
    bool save = to_save != 0;
    if (save) to_save = 0; // one that comes from here on is of the next call
    if (save && now < late_until_) {
        save = false;
        late_until_ = {};
    }
    auto wanted = static_cast<std::int32_t>(to_stop != 0 ? Request::stop : save ? Request::save : Request::none);
    all.all_reduce(stream, View(&wanted, {}, DType::i32), Reduction::max);
    const auto answer = static_cast<Request>(wanted);
    if (answer == Request::save) late_until_ = save ? decltype(now){} : now + same_request;
    return answer;
}

} // namespace tessera
