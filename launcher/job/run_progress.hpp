// SPDX-License-Identifier: Apache-2.0
// How far a run has come, as its folder tells whoever looks at it from outside: metrics, logs, RUN/job.
#pragma once

#include "launcher/job/ending.hpp"

#include <chrono>
#include <filesystem>
#include <optional>

namespace tessera {

// Of one attempt to run, from when it is made; files of before count as they stand then.
class RunProgress {
public:
    using Clock = std::chrono::system_clock; // files have its time

    RunProgress(std::filesystem::path run_folder, std::int64_t ranks);

    // To be called now and then: the instants below are seen when they are looked for.
    void look();
    std::optional<Clock::time_point> ranks_known() const { return known_; }  // MPI has started
    std::optional<Clock::time_point> loaded() const { return loaded_; }      // all is ready for the first step
    std::optional<Clock::time_point> first_step() const { return stepped_; } // one is done

    std::int64_t last_step() const;                     // in the metrics; 0: none
    std::optional<Clock::time_point> last_sign() const; // of life: when the metrics were written

    std::vector<RankWord> words() const; // that ranks above 0 have written to their logs since

private:
    std::filesystem::path log_of(std::int64_t rank) const;

    std::filesystem::path folder_;
    std::vector<std::uintmax_t> log_sizes_; // at the beginning, by rank
    std::optional<Clock::time_point> known_, loaded_, stepped_;
    std::uintmax_t metrics_size_ = 0; // when loaded
};

} // namespace tessera
