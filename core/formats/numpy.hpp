// SPDX-License-Identifier: Apache-2.0
// Numbers as a .npy file, which NumPy loads (numpy.lib.format, version 1.0).
#pragma once

#include "kernels/tensor.hpp"

#include <string>

namespace tessera {

// Writes f32 elements as a new file. ConfigError when there is one already.
void write_numpy(const std::string& path, const ConstView& elements);

} // namespace tessera
