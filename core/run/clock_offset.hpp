// SPDX-License-Identifier: Apache-2.0
// How far the clocks of ranks are apart.
#pragma once

#include "parallel/communication/communicator.hpp"

#include <functional>

namespace tessera {

struct ClockOffset {
    double seconds = 0; // that this rank's clock is ahead of rank 0's
    double error = 0;   // at most so much either way: half of the quickest round trip
};

// Called by all ranks together: rank 0 asks each, one after the other, some times what its clock says, and the quickest
// answer counts (Cristian 1989). `clock` gives seconds; `host` is the stream of `ranks` on the host.
ClockOffset clock_offset(Communicator& ranks, Stream& host, const std::function<double()>& clock);

} // namespace tessera
