// SPDX-License-Identifier: Apache-2.0
// What test programs under mpirun share: the one World of the process.
#pragma once

#include "parallel/communication/world.hpp"

namespace tessera::test {

World& world();

} // namespace tessera::test
