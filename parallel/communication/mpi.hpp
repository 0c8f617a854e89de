// SPDX-License-Identifier: Apache-2.0
// The communicator over MPI processes on any hosts.
#pragma once

#include "parallel/communication/communicator.hpp"
#include "parallel/communication/process_group.hpp"

#include <memory>

namespace tessera {

// Collective. Reductions are an exchange of slices, a local combination in tree order, and a second exchange.
std::unique_ptr<Communicator> make_mpi_communicator(ProcessGroup group);

} // namespace tessera
