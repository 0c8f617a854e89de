// SPDX-License-Identifier: Apache-2.0
// The end of a run whose numbers went wrong.
#pragma once

#include "kernels/error.hpp"

namespace tessera {

// Loss or gradients are not finite or far off, and what the config allows against it is used up. A restart would come to
// the same numbers. Exit code 5.
class DivergedError : public SystemError {
    using SystemError::SystemError;
};

} // namespace tessera
