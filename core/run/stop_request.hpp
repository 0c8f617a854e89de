// SPDX-License-Identifier: Apache-2.0
// "Save and stop" and "save and go on", as a person or a batch system asks for them by a signal.
#pragma once

#include "parallel/communication/communicator.hpp"

#include <chrono>

namespace tessera {

enum class Request : std::int32_t { none, save, stop }; // stop: save first; the larger one counts

// While it lives, signals set a flag instead of ending the process: SIGUSR1, SIGTERM, SIGINT and SIGHUP ask to save and
// stop, SIGUSR2 to save and go on. A second SIGINT ends the process at once (exit_code::interrupted). SIGHUP that was
// ignored before stays so. One of a process at a time. From its life on SIGPIPE is ignored, and after it SIGUSR1 and
// SIGUSR2 are.
class StopRequest {
public:
    StopRequest();
    ~StopRequest();
    StopRequest(const StopRequest&) = delete;
    StopRequest& operator=(const StopRequest&) = delete;

    // What any rank has been asked for since the last call; once it is to stop, that stays. Called by all ranks
    // together, who all get the same answer: none leaves or saves alone. One exchange of 4 bytes.
    // A launcher passes SIGUSR2 on to all ranks, whom it reaches before or after this call: the first that comes to a
    // rank within half a minute after an answer `save` that it had no part in is the same request.
    Request anywhere(Communicator& all, Stream& stream);

private:
    std::chrono::steady_clock::time_point late_until_{}; // what others have been told already may come here
};

} // namespace tessera
