// SPDX-License-Identifier: Apache-2.0
// From a command line and a machine to what plan_job wants to know: the options of ranks, this host, and the others,
// which are asked.
#pragma once

#include "launcher/command_line.hpp"
#include "launcher/job/job.hpp"

#include <chrono>

namespace tessera {

// --ranks, --threads, --hosts, --hostfile, --interface, --remote-shell, --grace, --dry-run.
std::vector<Option> options_of_ranks();

// ConfigError for what they cannot mean.
Wish wish_of(const Arguments& arguments);
std::chrono::seconds grace_of(const Arguments& arguments);

// This host alone: asks nobody.
Surroundings this_host();

// The hosts of the wish that answer `PROGRAM host --short` in ten seconds; those are added to `here`. Of the others a
// line each goes to `silent`: "c03 does not answer: why".
std::vector<HostSlots> ask_shapes(const std::string& program, const Wish& wish, Surroundings& here,
                                  std::vector<std::string>& silent);

std::string this_program(); // its path

} // namespace tessera
