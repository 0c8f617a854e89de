// SPDX-License-Identifier: Apache-2.0
// Starts a subcommand of this program on every rank, and waits for it.
#pragma once

#include "launcher/diagnosis/surroundings.hpp"

namespace tessera {

// Prints what would be started for `tessera WORD…` on every rank, and what each host would give it; starts no rank.
// Returns 0, or the exit code of a lost link when a host does not answer.
int show_job(const std::string& name, const std::vector<std::string>& words, const Wish& wish);

// Whether one of options_of_ranks is there: then ranks are to be started, else this process is one of them.
bool starts_ranks(const Arguments& arguments);

// Runs `tessera NAME` once on as many ranks as `arguments` say (options_of_ranks), on cores of their own where there
// are enough: with those of `options` that are there, and the words that are no options. Notes for people go to the
// standard error, as from `tessera NAME`. Returns the exit code of the ranks; with --dry-run, as show_job does.
// LostError when a host does not answer.
int start_ranks(const std::string& name, const std::vector<std::string>& options, const Arguments& arguments);

} // namespace tessera
