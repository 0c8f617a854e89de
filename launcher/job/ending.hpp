// SPDX-License-Identifier: Apache-2.0
// How a job ended, from all that is known of it: mpirun's exit code and words, the failure that a rank noted, what the
// ranks said. And what follows from it. Pure.
#pragma once

#include "core/watch/job_folder.hpp"
#include "launcher/job/child.hpp"

#include <functional>

namespace tessera {

// What mpirun says of the first rank that ended as it should not, or of a host that it has lost.
struct MpirunWord {
    int rank = -1;
    std::string host;       // "" when it does not say
    bool lost_host = false; // its daemon there does not answer: `rank` is not known
    int signal = 0;         // 0: none
    int code = -1;          // exit code of the rank; -1: it does not say
    bool improper = false;  // it left without MPI_Finalize
};
// Its words for a host that is lost.
inline constexpr const char* lost_daemon = "ORTE has lost communication with a remote daemon";
std::optional<MpirunWord> read_mpirun(const std::string& words);

// "tessera: rank 5: …", as a rank says why it ends.
struct RankWord {
    int rank = 0;
    std::string message;
};
std::vector<RankWord> read_rank_words(const std::string& text);

struct Ending {
    int code = 0; // the launcher's, if nothing more happens (core/exit_codes.hpp)
    bool may_restart = false;
    int rank = -1;          // to blame; -1: not known
    std::int64_t step = -1; // that was under way; -1: none or not known
    std::string sentence;   // "rank 5 on c03 was ended by signal 9 (Killed) and 63 more ranks"; empty: nothing failed
};

// `last_step`: of the metrics. `host_of`: of a rank, "" when it is not known.
Ending classify(const ChildEnd& end, const std::optional<JobFailure>& failure, const std::string& mpirun,
                const std::vector<RankWord>& ranks, std::int64_t last_step,
                const std::function<std::string(std::int64_t)>& host_of);

// What ended before, and whether to start once more.
class RestartPolicy {
public:
    // So many restarts; `delay` before the first, then twice as long each time, but at most five minutes.
    RestartPolicy(std::int64_t most, std::chrono::milliseconds delay) : most_(most), delay_(delay) {}

    // Takes note of an ending. Whether to start again; where not, `why_not()` says why, unless the ending itself does.
    bool again(const Ending& ending);
    const std::string& why_not() const { return why_not_; }
    std::int64_t restarts() const { return restarts_; }
    std::chrono::milliseconds wait() const; // before the restart that again() has allowed

private:
    std::int64_t most_;
    std::chrono::milliseconds delay_;
    std::int64_t restarts_ = 0;
    std::int64_t failed_step_ = -1;
    std::vector<int> failed_on_; // ranks, of the same step
    std::string why_not_;
};

} // namespace tessera
