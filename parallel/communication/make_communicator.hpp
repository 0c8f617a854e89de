// SPDX-License-Identifier: Apache-2.0
// A communicator of any ranks, apart from the axes of a mesh.
#pragma once

#include "parallel/communication/communicator.hpp"
#include "parallel/communication/process_group.hpp"

#include <memory>
#include <string>

namespace tessera {

// On the back end that Groups (groups.cpp) would choose for ranks that compute on such a stream. Collective over the
// group; `name` stands in the messages of errors.
std::unique_ptr<Communicator> make_communicator(ProcessGroup group, const std::string& name, const Stream& stream,
                                                bool shared_memory);

} // namespace tessera
