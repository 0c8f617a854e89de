// SPDX-License-Identifier: Apache-2.0
// What a rank's watchdog tells the others of its rank, and how that travels. Pure: no socket, no clock.
#pragma once

#include "core/watch/job_folder.hpp"
#include "parallel/communication/flight_recorder.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// How a rank is heard of by who asks.
enum class Contact : std::uint8_t {
    answers,
    silent,      // nothing has come for a while, though its host takes connections, or it is on this one
    unreachable, // its host does not answer
    gone,        // its process is not there any more
    left         // said goodbye: its run ended, well or with an error of its own
};

// A call with its age instead of times of its host's clock.
struct ReportedCall {
    CallRecord call;
    double age = 0; // seconds since it began
};

struct RankReport {
    RankPlace place;
    Contact contact = Contact::answers;
    char process = 0;   // state in /proc, as a rank of the same host sees it: R, S, D, T, Z; 0: not known
    double silence = 0; // seconds since it was heard of
    bool overdue = false;
    double deadline = 0;                                  // seconds, of what it is at
    double median = 0;                                    // seconds, of its last steps; 0: none
    FlightState state;                                    // without its times
    double activity_age = 0, doing_age = 0, step_age = 0; // seconds
    std::vector<ReportedCall> calls;                      // the newest first

    // In a call that has not returned.
    bool waits() const { return !calls.empty() && calls.front().call.state == CallState::begun; }
};

// Of a rank on this host, at this moment, with that many calls.
RankReport report_of(const FlightView& page, const RankPlace& place, std::size_t calls);

// Of messages between watchdogs.
inline constexpr std::size_t most_message_bytes = 64 << 10;

// As bytes of at most most_message_bytes.
std::string encoded(const RankReport& report);
// Nothing where the bytes are no report: whoever sent them.
std::optional<RankReport> decoded(std::string_view bytes);

} // namespace tessera
