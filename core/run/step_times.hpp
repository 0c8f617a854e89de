// SPDX-License-Identifier: Apache-2.0
// Where the time of each rank goes: computing, communication, waiting for data, saving, evaluation; and which rank the
// others wait for.
#pragma once

#include "parallel/communication/flight_recorder.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

// Seconds of one rank. A rank that waits for a slow one spends `communication`; a slow one spends any of the others.
struct RankTimes {
    double computing = 0;                // and all that has no name of its own
    double input = 0;                    // until the next batch is there: waiting for it, and copying it
    double saving = 0;                   // training stands still for it
    double evaluation = 0;               // and computing is none of these
    std::vector<double> communication{}; // in calls of communicators, which nothing hides; by StepTimes::axes
    double waited = 0;                   // of `input`: the samples were not read yet

    double own() const { return computing + input + saving + evaluation; }
    double communicated() const;
};

// Of all ranks, over `steps` steps and what lay between them.
struct StepTimes {
    std::int64_t steps = 0;
    std::vector<std::string> axes; // "all ranks", "data", …
    std::vector<RankTimes> ranks;  // by rank
};

// A rank as a report calls it, and with whom it can be compared: those with as much of the same work.
struct RankOfPeers {
    std::string host;
    std::string peers;
};

// A sentence for each rank that is slow by its own time, the slowest first, with why: "rank 3 on h2: 41.0 of 120.0 ms
// of a step in input, the others like it 2.0 ms". Slow is who is an outlier among its peers (outliers.hpp).
// Pure.
std::vector<std::string> slow_ranks(const StepTimes& times, const std::vector<RankOfPeers>& places);

// "a step, mean of 4 ranks: computing 80.1 ms, waiting for data 0.00 ms (0 %), copying them 0.2 ms, communication
// 19.2 ms (data 15.0 ms, …), …". The share is that of a step. Pure.
std::string mean_times(const StepTimes& times);

// Adds up what the recorder is told. On a GPU's rank only the host's time is seen: what its kernels and their
// collectives take is `computing`.
class TimeAccount final : public FlightRecorder::Listener {
public:
    // Listens from now on; `recorder` outlives it. Axes by their numbers at the recorder, 0 to `axes` - 1.
    TimeAccount(FlightRecorder& recorder, int axes);
    ~TimeAccount() override;
    TimeAccount(const TimeAccount&) = delete;
    TimeAccount& operator=(const TimeAccount&) = delete;

    RankTimes take(); // since the last call

    void at(Activity activity, Doing doing, std::string_view work, std::int64_t now) override;
    void called(int axis, CallKind kind, std::int64_t bytes, std::int64_t begun, std::int64_t ended) override;

private:
    enum class Kind : std::uint8_t { computing, input, saving, evaluation };
    void close(std::int64_t now);

    FlightRecorder& recorder_;
    Kind kind_ = Kind::computing;          // of what is under way
    std::int64_t since_ = monotonic_now(); // it is, nanoseconds as the rest
    std::int64_t communicated_ = 0;        // since then
    std::array<std::int64_t, 4> kinds_{};  // without communication
    std::vector<std::int64_t> axes_;
};

} // namespace tessera
