// SPDX-License-Identifier: Apache-2.0
// How a watchdog ends the job: asks everybody, says why, and sees that no rank of its host is left.
#include "core/watch/ending.hpp"
#include "core/watch/process_state.hpp"
#include "core/watch/stall_verdict.hpp"
#include "core/watch/watch.hpp"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>

namespace tessera {

std::string packed(const std::vector<int>& ranks) {
    return {reinterpret_cast<const char*>(ranks.data()), ranks.size() * sizeof(int)};
}

std::vector<int> unpacked(const std::string& body) {
    std::vector<int> ranks(body.size() / sizeof(int));
    std::memcpy(ranks.data(), body.data(), ranks.size() * sizeof(int));
    return ranks;
}

// A rank is told of those on its host alone, which it can look at.
std::vector<int> Watchdog::Watch::on_host_of(int rank, const std::vector<int>& ranks) const {
    std::vector<int> there;
    for (const int other : ranks)
        if (of(other).host == of(rank).host) there.push_back(other);
    return there;
}

void Watchdog::Watch::ask_all() {
    asked_ = seconds_now();
    std::vector<int> silent;
    for (int rank = 0; rank < static_cast<int>(peers_.size()); ++rank)
        if (rank != self_ && (peers_[index(rank)].gone || seconds_now() - peers_[index(rank)].heard > silent_after))
            silent.push_back(rank);
    for (int rank = 0; rank < static_cast<int>(peers_.size()); ++rank)
        if (Peer& peer = peers_[index(rank)]; peer.connection)
            peer.connection->send('q', packed(on_host_of(rank, silent)));
}

RankReport Watchdog::Watch::of_neighbour(int rank, std::size_t calls) const {
    RankReport report = report_of(recorder_.of_neighbour(of(rank).on_host), of(rank).place, calls);
    const ProcessState state = process_state(of(rank).place.pid);
    report.process = state.started == of(rank).started ? state.state : 'X';
    report.contact = Contact::silent;
    return report;
}

// Also about the silent ranks of this host, and those that will not come to answer.
void Watchdog::Watch::answer(const std::vector<int>& silent) {
    RankReport own = report_of(recorder_.own(), of(self_).place, calls_in_full);
    deadlines_.judge(own, 0);
    link_->send('f', encoded(own));
    for (int rank = 0; rank < static_cast<int>(peers_.size()); ++rank) {
        if (rank == self_ || !is_neighbour(rank)) continue;
        const RankReport report = of_neighbour(rank, calls_in_full);
        const bool cannot = report.process == 'T' || report.process == 't' || report.process == 'Z';
        if (cannot || std::ranges::find(silent, rank) != silent.end()) link_->send('f', encoded(report));
    }
}

std::vector<RankReport> Watchdog::Watch::all_reports() const {
    std::vector<RankReport> reports;
    for (int rank = 0; rank < static_cast<int>(peers_.size()); ++rank) {
        const Peer& peer = peers_[index(rank)];
        RankReport report = peer.report;
        const bool is_silent = peer.gone || seconds_now() - peer.heard > silent_after;
        if (rank == self_ || is_neighbour(rank)) {
            const RankReport seen = of_neighbour(rank, calls_in_full);
            const bool stopped = seen.process == 'T' || seen.process == 't';
            if (rank == self_ || stopped || is_silent || !peer.full) { // what it said last may be a second old
                const bool overdue = report.overdue;
                const double deadline = report.deadline;
                report = seen;
                report.overdue = overdue;
                report.deadline = deadline;
                report.contact = stopped || is_silent ? Contact::silent : Contact::answers;
            }
        }
        if (is_silent) report.contact = peer.unreachable ? Contact::unreachable : Contact::silent;
        if (peer.left) report.contact = Contact::left;
        if (peer.gone) report.contact = Contact::gone;
        report.silence = seconds_now() - peer.heard;
        reports.push_back(std::move(report));
    }
    return reports;
}

// Where another failure is noted already, that was the first, and this only what followed.
void Watchdog::Watch::conclude() {
    end_within_seconds(); // the run's folder may be on the host that is gone
    const Verdict verdict = compose_verdict(all_reports(), options_.mesh);
    tell_verdict(options_.run_folder, verdict, options_.start);
    std::vector<int> others; // cannot end by themselves
    for (int rank = 0; rank < static_cast<int>(peers_.size()); ++rank)
        if (rank != self_) others.push_back(rank);
    for (int rank = 0; rank < static_cast<int>(peers_.size()); ++rank)
        if (Peer& peer = peers_[index(rank)]; peer.connection)
            peer.connection->send('e', packed(on_host_of(rank, others)));
    const double said = seconds_now();
    const auto is_open = [](const Peer& peer) { return peer.connection && peer.connection->descriptor() >= 0; };
    while (std::ranges::any_of(peers_, is_open) && seconds_now() - said < gathering) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        for (Peer& peer : peers_)
            if (is_open(peer)) peer.connection->proceed();
    }
    end(others);
}

// Ranks of this host that do not end by themselves: stopped ones cannot.
void Watchdog::Watch::end(const std::vector<int>& others) {
    end_within_seconds();
    std::vector<StoppedProcess> stopped;
    for (const int rank : others) {
        if (rank < 0 || index(rank) >= peers_.size() || rank == self_ || !is_neighbour(rank)) continue;
        const ProcessState state = process_state(of(rank).place.pid);
        if ((state.state == 'T' || state.state == 't') && state.started == of(rank).started)
            stopped.push_back({of(rank).place.pid, state.started});
    }
    kill_later(stopped);
    end_now();
}

void Watchdog::Watch::say_goodbye() {
    std::vector<WatchConnection*> open;
    if (link_) open.push_back(&*link_);
    for (Peer& peer : peers_)
        if (peer.connection) open.push_back(&*peer.connection);
    for (WatchConnection* const one : open)
        one->send('g', all_came_ ? std::string(all_have_come) : "");
    for (WatchConnection* const one : open)
        one->finish();
}

} // namespace tessera
