// SPDX-License-Identifier: Apache-2.0
// From what all ranks report to who is to blame. Pure: a function of the reports.
#pragma once

#include "core/watch/stall_report.hpp"
#include "parallel/layout/mesh.hpp"

#include <string>
#include <vector>

namespace tessera {

struct Verdict {
    std::string kind;     // "lost": a rank or its host is gone; "stalled": it is there
    RankPlace place;      // of the rank to blame
    std::int64_t step;    // under way, from 1; -1: none
    std::string sentence; // one line
    std::string page;     // for people: the sentence, every rank, and the last calls of the one to blame
};

// `reports`: one of each rank, in any order, at least one. First to blame is who is gone, then who cannot be reached,
// who does not run (stopped), who has left; then a rank that is in no call while others wait in theirs (of several,
// the one that has entered the fewest on that axis); then the ranks that are in another call than most of their group;
// then who is awaited in the end of a chain of messages. What remains is that all are in one call, which does not end.
Verdict compose_verdict(std::vector<RankReport> reports, const Mesh& mesh);

} // namespace tessera
