// SPDX-License-Identifier: Apache-2.0
// What is wrong with a machine, judged from what was found on it. Pure.
#pragma once

#include "launcher/diagnosis/rank_facts.hpp"

#include <string>
#include <vector>

namespace tessera {

struct Finding {
    bool wrong = true;           // else a note, which changes no exit code
    std::vector<std::string> of; // the hosts that a job could leave out for it; none: that would mend nothing
    std::string what;            // "rank 2 on h2: …"
    std::string remedy;          // what to do about it
};

// What is wrong comes first.
std::vector<Finding> judge(const Survey& survey);

// "--exclude=h2,h5": of the hosts to leave out, for srun, sbatch and `tessera submit`. "" when there is none, or when
// no host would be left.
std::string exclude_line(const std::vector<Finding>& findings, const Survey& survey);

// For people: what was found, then the findings, a line each.
std::string report(const Survey& survey, const std::vector<Finding>& findings);
// The same as one JSON object, with line ends.
std::string report_json(const Survey& survey, const std::vector<Finding>& findings);

} // namespace tessera
