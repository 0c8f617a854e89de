// SPDX-License-Identifier: Apache-2.0
// Starts a subcommand of this program on every rank, and waits for it.
#pragma once

#include "launcher/command_line.hpp"

#include <string>
#include <vector>

namespace tessera {

// The options that say how: --ranks, --threads, --grace, --dry-run.
std::vector<Option> options_of_ranks();

// Runs `tessera WORD…` on as many ranks as `arguments` say, on cores of their own where there are enough. Notes for
// people go to the standard error, as from `tessera NAME`. Returns the exit code of the ranks, or, with --dry-run, 0
// after it has printed what it would do.
int start_ranks(const std::string& name, const std::vector<std::string>& words, const Arguments& arguments);

} // namespace tessera
