// SPDX-License-Identifier: Apache-2.0
// The three exceptions of the house. A message says what, found, expected and where; only launcher/program.cpp catches.
#pragma once

#include <stdexcept>

namespace tessera {

// A person can mend it: a config key, a command line, a data file, a checkpoint. Exit code 2.
class ConfigError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The machine or a library refused: files, memory, MPI, HDF5, CUDA, NCCL. Exit code 1.
class SystemError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Our own fault: a broken invariant. Exit code 1.
class InternalError : public std::logic_error {
    using std::logic_error::logic_error;
};

} // namespace tessera
