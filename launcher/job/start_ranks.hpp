// SPDX-License-Identifier: Apache-2.0
// Starts a subcommand of this program on every rank, and waits for it.
#pragma once

#include "launcher/diagnosis/surroundings.hpp"

namespace tessera {

// Prints what would be started for `tessera WORD…` on every rank, and what each host would give it; starts no rank.
// Returns 0, or the exit code of a lost link when a host does not answer.
int show_job(const std::string& name, const std::vector<std::string>& words, const Wish& wish);

// Runs `tessera WORD…` once on as many ranks as `arguments` say (options_of_ranks), on cores of their own where there
// are enough. Notes for people go to the standard error, as from `tessera NAME`. Returns the exit code of the ranks;
// with --dry-run, as show_job does. LostError when a host does not answer.
int start_ranks(const std::string& name, const std::vector<std::string>& words, const Arguments& arguments);

} // namespace tessera
