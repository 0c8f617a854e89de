// SPDX-License-Identifier: Apache-2.0
// What is wrong with the data, as opposed to the config that names them.
#pragma once

#include "kernels/error.hpp"

namespace tessera {

// A file that is missing, closed to us, cut off or not of its format, text that a tokenizer cannot take, too few
// samples. A person can mend it, and a restart cannot. Exit code 3.
class DataError : public ConfigError {
    using ConfigError::ConfigError;
};

} // namespace tessera
