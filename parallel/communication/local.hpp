// SPDX-License-Identifier: Apache-2.0
// Communicators inside one process: one rank alone, and ranks as threads for tests.
#pragma once

#include "parallel/communication/communicator.hpp"

#include <functional>
#include <memory>

namespace tessera {

// One rank, on either kind of stream: every collective is a copy or nothing. send and receive throw InternalError.
std::unique_ptr<Communicator> make_local_communicator();

// Runs `body` once per rank, each in a thread of its own, and waits for all. When a body throws, the others'
// collectives throw too, and the first exception of all is thrown here.
void run_as_threads(int ranks, const std::function<void(Communicator&)>& body);

} // namespace tessera
