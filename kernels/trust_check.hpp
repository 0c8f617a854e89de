// SPDX-License-Identifier: Apache-2.0
// What these steps check on the host, for every kind of device.
#pragma once

#include "kernels/trust.hpp"

namespace tessera::kernels {

// Throws InternalError where lists differ in length, or views in their counts. `states`: how many there are.
void check(const char* kernel, const TrustTensors& tensors, int states, ConstView factor);

} // namespace tessera::kernels
