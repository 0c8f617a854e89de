// SPDX-License-Identifier: Apache-2.0
// A rank that is gone, or a link to it.
#pragma once

#include "kernels/error.hpp"

namespace tessera {

// MPI or NCCL says that a message cannot come or go any more, or a rank that others wait for does not answer: a restart
// may help. Exit code 4.
class LostError : public SystemError {
    using SystemError::SystemError;
};

} // namespace tessera
