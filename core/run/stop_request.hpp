// SPDX-License-Identifier: Apache-2.0
// "Save and stop", as a person or a batch system asks for it by a signal: SIGUSR1, SIGTERM or SIGINT.
#pragma once

#include "parallel/communication/communicator.hpp"

namespace tessera {

// While it lives, the three signals set a flag instead of ending the process; a second SIGINT ends it at once. One of a
// process at a time.
class StopRequest {
public:
    StopRequest();
    ~StopRequest();
    StopRequest(const StopRequest&) = delete;
    StopRequest& operator=(const StopRequest&) = delete;

    // Whether any rank has been asked. Called by all ranks together, who all get the same answer: none stops alone.
    bool anywhere(Communicator& all, Stream& stream) const;
};

} // namespace tessera
