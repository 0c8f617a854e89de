// SPDX-License-Identifier: Apache-2.0
// Which versions of the libraries this process runs on: of those that are loaded, whatever it was built with.
#pragma once

#include <map>
#include <string>

namespace tessera {

// By name ("MPI", "PMIx", "HDF5", "hwloc", "oneDNN", "OpenBLAS", "C library", "CUDA driver", "CUDA runtime", "NCCL",
// "cuDNN", …). What is not loaded is left out; MPI loads its parts (PMIx, UCX) when it starts.
std::map<std::string, std::string> library_versions();

} // namespace tessera
