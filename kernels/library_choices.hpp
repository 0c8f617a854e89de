// SPDX-License-Identifier: Apache-2.0
// By which algorithms the libraries of a GPU run products, convolutions and attention, so that all ranks of a run can
// have the same: what was asked of a stream, trials of it, and what was settled. On a CPU nothing is asked, and nothing
// done.
#pragma once

#include "kernels/stream.hpp"

#include <map>
#include <span>
#include <vector>

namespace tessera {

// CudaStream::for_planning, for a run with these options.
Stream planning_gpu_stream(CudaOptions options);

// What an algorithm is for, and which it is: numbers that mean something to the same libraries on the same kind of GPU.
using ChoiceWords = std::vector<std::int64_t>;
using LibraryChoices = std::map<ChoiceWords, ChoiceWords>;
inline const ChoiceWords by_our_kernel{-1}; // a choice: not by the library

// What plans have asked this stream for workspaces of, each once: a choice's words begin with those that were asked.
std::vector<ChoiceWords> asked_of_libraries(const Stream& stream);

// Runs each of `asked` on memory of its own, on a stream that is not to tune convolutions alone, and answers with the
// choices of all first calls so far.
LibraryChoices try_libraries(Stream& stream, std::span<const ChoiceWords> asked);

// From now on nothing is timed: calls take the algorithm that stands here, and the others the one that a stream takes
// that is not to tune.
void settle_libraries(Stream& stream, const LibraryChoices& choices);

// Why cuDNN did not start or failed in a first call, so that a kernel of ours does its work; empty: it did not.
std::string cudnn_trouble(const Stream& stream);

// "NVIDIA H200, cuBLASLt 130100, cuDNN 91300": where choices hold.
std::string libraries_text(const Stream& stream);

} // namespace tessera
