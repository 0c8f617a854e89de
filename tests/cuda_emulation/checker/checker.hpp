// SPDX-License-Identifier: Apache-2.0
// What the compiler's hooks call for each access of a kernel. `instruction` is the one behind it.
#pragma once

#include "tests/cuda_emulation/device/execution.hpp"

namespace tessera::emulation {

// Both end the kernel with a sentence about what is wrong; outside of kernels they do nothing.
void check_access(const void* memory, std::size_t bytes, Access access, const void* instruction);
void report_alignment(const void* memory, std::size_t bytes, const void* instruction); // it is not aligned

} // namespace tessera::emulation
