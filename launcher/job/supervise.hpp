// SPDX-License-Identifier: Apache-2.0
// A job that is started again, from its newest good checkpoint, as long as a restart helps.
#pragma once

#include "launcher/job/attempt.hpp"

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>

namespace tessera {

// What of a layout may change for another number of ranks: the share of the samples, whatever changes no bit of the
// result, or all of it, the size of a micro-batch last. The samples of a step stay.
enum class Freedom { data, same_bits, any };

struct LayoutQuestion {
    std::int64_t ranks;  // that there is room for
    std::int64_t wanted; // those of the run as it was meant, which settle what its config leaves open
    Freedom freedom;
    std::chrono::steady_clock::time_point until; // an answer is worth nothing later
    std::function<bool()> stop;                  // asked again and again: whether nobody waits for the answer any more
};

struct Supervision {
    std::int64_t max_restarts = 0;
    std::chrono::milliseconds restart_delay{1000}; // before the first restart; then twice as long each time
    std::int64_t min_ranks = 0;                    // 0: never on fewer ranks than at first
    Patience patience;
    std::filesystem::path run_folder;
    std::vector<std::string> once; // options of `train` for the first attempt only
    // The words that the ranks need besides to run on so many (none: an empty list); nothing when they cannot, and then
    // why not.
    std::function<std::optional<std::vector<std::string>>(const LayoutQuestion& question, std::string& refusal)> fit;
};

// Runs the job, restarts it as `supervision` allows, and returns the exit code of the last attempt. Holds the run's
// lock meanwhile. ConfigError when another launcher has it, LostError when hosts do not answer.
int supervise(const std::vector<std::string>& program, const Wish& wish, const Supervision& supervision);

} // namespace tessera
