// SPDX-License-Identifier: Apache-2.0
// Inside the watchdog: what its thread keeps of the other ranks. watchdog.cpp has its loop, watch_end.cpp how it ends.
#pragma once

#include "core/watch/stall_report.hpp"
#include "core/watch/watch_roster.hpp"
#include "core/watch/watchdog.hpp"

#include <atomic>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

namespace tessera {

// Seconds.
inline constexpr double silent_after = 3; // without a beat
inline constexpr double gathering = 2;    // a new first waits for the others, and each for full reports

inline constexpr std::size_t calls_in_full = 64; // of a full report

// With a goodbye: every rank has come to the end.
inline constexpr std::string_view all_have_come = "all";

inline double seconds_now() { return static_cast<double>(monotonic_now()) * 1e-9; }

std::string packed(const std::vector<int>& ranks);
std::vector<int> unpacked(const std::string& body);

struct Stranger {
    WatchConnection connection;
    double since;
};

struct Peer {
    std::optional<WatchConnection> connection, probe;
    RankReport report;
    double heard = 0; // or since when it should have been
    double probed = 0;
    int refusals = 0;
    bool gone = false, left = false, unreachable = false, full = false;
};

class Watchdog::Watch {
public:
    Watch(const World& world, const ProcessGroup& neighbours, const FlightRecorder& recorder, Options options);
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

    void everybody_has_come() { all_came_ = true; }
    void write_ranks() const;

private:
    static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }
    const WatchedRank& of(int rank) const { return roster_.ranks[index(rank)]; }
    bool is_neighbour(int rank) const { return of(rank).host == of(self_).host; }
    bool leads() const { return first_ == self_; }

    void run(const std::stop_token& stop);
    void wait_and_take();
    void take_strangers();
    void take(int rank, const WatchMessage& message);
    void take_from_first(const WatchMessage& message);
    void turn();
    void follow(const RankReport& own);
    void lead(const RankReport& own);
    void look_after(int rank);
    bool is_dead_here(int rank) const;
    bool is_stalled() const;
    void next_first();
    std::vector<int> on_host_of(int rank, const std::vector<int>& ranks) const;
    void ask_all();
    void answer(const std::vector<int>& silent);
    RankReport of_neighbour(int rank, std::size_t calls) const;
    std::vector<RankReport> all_reports() const;
    [[noreturn]] void conclude();
    [[noreturn]] void end(const std::vector<int>& others);
    void say_goodbye();

    Options options_;
    const FlightRecorder& recorder_;
    int self_;
    WatchRoster roster_;
    int first_ = 0;                       // whom the others tell
    std::optional<WatchConnection> link_; // to it
    double dialled_ = 0, beaten_ = 0, answered_ = seconds_now(), leads_since_ = seconds_now(), asked_ = 0;
    int refusals_ = 0;
    std::vector<Stranger> strangers_;
    std::vector<Peer> peers_; // by rank
    Deadlines deadlines_;
    int wake_;
    double last_turn_;
    std::atomic<bool> all_came_ = false; // to the end of the run, as the main thread knows
    bool over_ = false;                  // likewise, as another rank says
    std::jthread thread_;
};

} // namespace tessera
