// SPDX-License-Identifier: Apache-2.0
// What the emulated device says it is, and which limits it keeps: those of an H100 (CUDA C++ Programming Guide,
// "Compute Capabilities").
#pragma once

#include <cstddef>

namespace tessera::emulation::hopper {

constexpr int multiprocessors = 132;
constexpr unsigned threads_per_block = 1024, threads_per_multiprocessor = 2048;
constexpr unsigned blocks_per_multiprocessor = 32;
constexpr std::size_t shared_per_block = 48 << 10;           // bytes, without being asked
constexpr std::size_t shared_per_block_opted_in = 227 << 10; // after cudaFuncSetAttribute
constexpr std::size_t shared_per_multiprocessor = 228 << 10;
constexpr std::size_t shared_reserved_per_block = 1 << 10;

} // namespace tessera::emulation::hopper
