// SPDX-License-Identifier: Apache-2.0
// What these steps check on the host, for every kind of device.
#pragma once

#include "kernels/update_rules.hpp"

namespace tessera::kernels {

// Throws InternalError where lists differ in length, or views in their counts.
void check(const char* kernel, const RuleTensors& tensors, ConstView learning_rate, ConstView factor, bool with_second);

} // namespace tessera::kernels
