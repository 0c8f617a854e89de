// SPDX-License-Identifier: Apache-2.0
// What a person has told the libraries below this program by variables of the environment.
#pragma once

#include <string>
#include <vector>

namespace tessera {

// "NCCL_DEBUG=INFO OMP_NUM_THREADS=2": of "NAME=VALUE" those that NCCL, UCX, OpenMP, CUDA and Open MPI read, in
// alphabetical order, without what mpirun tells its ranks by itself, and without any whose name looks like a secret's
// (looks_like_a_secret). "" when there is none.
std::string environment_text(const std::vector<std::string>& variables);

std::vector<std::string> environment_here(); // of this process

} // namespace tessera
