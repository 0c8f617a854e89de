// SPDX-License-Identifier: Apache-2.0
// The whole program, for a main of its own: one that adds its own layers, optimizers and readers first
// (core/extension.hpp).
#pragma once

namespace tessera {

// Runs `argv[1]` as a subcommand and returns the exit code (core/exit_codes.hpp), whatever fails. `launch` and `verify`
// start this very executable again as ranks: what it adds to the catalogs, it must add whenever it starts.
int run_program(int argc, char** argv);

} // namespace tessera
