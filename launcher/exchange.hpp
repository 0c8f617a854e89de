// SPDX-License-Identifier: Apache-2.0
// The parts of `tessera checkpoint` that exchange weights with other programs.
#pragma once

#include "launcher/command_line.hpp"

#include <string>

namespace tessera {

// `tessera checkpoint export` and `import`, with the words of the command line; the exit code.
int export_checkpoint(const Arguments& arguments);
int import_checkpoint(const Arguments& arguments);

// The checkpoints' folder of the run that --to names; ConfigError without it.
std::string checkpoints_below(const Arguments& arguments);

} // namespace tessera
