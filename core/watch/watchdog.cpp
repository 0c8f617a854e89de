// SPDX-License-Identifier: Apache-2.0
// The thread: a loop around poll(). Messages: h hello (token and rank), b beat (a report), a answer to it, q what do
// you do (and what do these silent ones), f a full report, e end now (and these cannot by themselves), g goodbye.
#include "core/watch/watchdog.hpp"

#include "core/watch/process_state.hpp"
#include "core/watch/watch.hpp"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <exception>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

namespace tessera {
namespace {

constexpr int tick_milliseconds = 200;
constexpr double beat_every = 1, dial_every = 0.5; // seconds
constexpr double suspended_after = 5;              // without a turn of the loop: this process did not run
constexpr double unreachable_after = 4;            // without an answer to a connection
constexpr double certain_after = 0.4;              // a rank that is gone may be one of many that mpirun is just killing
constexpr double hello_within = 5;
constexpr std::size_t calls_in_beat = 4, most_strangers = 256;

} // namespace

Watchdog::Watch::Watch(const World& world, const ProcessGroup& neighbours, const FlightRecorder& recorder,
                       Options options)
    : options_(std::move(options)), recorder_(recorder), self_(world.rank()), roster_(meet(world, neighbours)),
      peers_(roster_.ranks.size()), deadlines_(options_.step_timeout), wake_(::eventfd(0, EFD_CLOEXEC)),
      last_turn_(seconds_now()) {
    for (Peer& peer : peers_)
        peer.heard = last_turn_;
    for (const WatchedRank& rank : roster_.ranks)
        peers_[index(rank.place.rank)].report.place = rank.place;
    rlimit files{}; // one for each rank that tells, and one to look after it
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &files);
    }
    sigset_t all, before; // signals are the main thread's
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Watchdog::Watch::~Watch() {
    thread_.request_stop();
    const std::uint64_t one = 1;
    if (::write(wake_, &one, sizeof one) > 0) thread_.join();
    ::close(wake_);
}

void Watchdog::Watch::write_ranks() const {
    if (self_ != 0) return;
    std::vector<RankPlace> places;
    for (const WatchedRank& rank : roster_.ranks)
        places.push_back(rank.place);
    tessera::write_ranks(options_.run_folder, places);
}

void Watchdog::Watch::run(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
        wait_and_take();
        turn();
    }
    say_goodbye();
}

// Takes what has come, from whomever.
void Watchdog::Watch::wait_and_take() {
    std::vector<pollfd> waits{{wake_, POLLIN, 0}, {roster_.listener->descriptor(), POLLIN, 0}};
    std::vector<WatchConnection*> connections{nullptr, nullptr};
    std::vector<int> ranks{-1, -1};
    const auto add = [&](WatchConnection& one, int rank) {
        if (one.descriptor() < 0) return;
        waits.push_back({one.descriptor(), static_cast<short>(POLLIN | (one.wants_to_write() ? POLLOUT : 0)), 0});
        connections.push_back(&one);
        ranks.push_back(rank);
    };
    if (link_) add(*link_, first_);
    const std::size_t first_peer = waits.size();
    for (std::size_t rank = 0; rank < peers_.size(); ++rank)
        for (std::optional<WatchConnection>* one : {&peers_[rank].connection, &peers_[rank].probe})
            if (*one) add(**one, static_cast<int>(rank));
    ::poll(waits.data(), waits.size(), tick_milliseconds);
    for (std::size_t i = 2; i < waits.size(); ++i) {
        if (waits[i].revents == 0) continue;
        const std::vector<WatchMessage> messages = connections[i]->proceed();
        const bool probes =
            i >= first_peer && peers_[index(ranks[i])].probe && connections[i] == &*peers_[index(ranks[i])].probe;
        for (const WatchMessage& message : messages) // who answers a probe need not be ours
            if (!probes) i < first_peer ? take_from_first(message) : take(ranks[i], message);
    }
    take_strangers();
}

// Who connects has to say hello first.
void Watchdog::Watch::take_strangers() {
    while (std::optional<WatchConnection> one = roster_.listener->accept())
        if (strangers_.size() < most_strangers) strangers_.push_back({std::move(*one), seconds_now()});
    for (Stranger& stranger : strangers_) {
        std::vector<WatchMessage> messages = stranger.connection.proceed();
        if (messages.empty()) continue;
        WatchToken token{};
        std::int32_t rank = -1;
        const std::string& body = messages.front().body;
        if (messages.front().kind == 'h' && body.size() == token.size() + sizeof rank) {
            std::memcpy(token.data(), body.data(), token.size());
            std::memcpy(&rank, body.data() + token.size(), sizeof rank);
        }
        if (!is_equal(token, roster_.token) || rank < 0 || index(rank) >= peers_.size()) {
            stranger.connection.close();
            continue;
        }
        peers_[index(rank)].connection = std::move(stranger.connection);
        for (std::size_t i = 1; i < messages.size(); ++i)
            take(rank, messages[i]);
    }
    std::erase_if(strangers_, [](const Stranger& one) {
        return one.connection.descriptor() < 0 || seconds_now() - one.since > hello_within;
    });
}

void Watchdog::Watch::take(int rank, const WatchMessage& message) {
    Peer& peer = peers_[index(rank)];
    peer.heard = seconds_now();
    peer.unreachable = false;
    peer.refusals = 0;
    if (message.kind == 'g') {
        peer.left = true;
        over_ = over_ || message.body == all_have_come;
        if (peer.connection) peer.connection->close(); // it waits for that
    }
    if (message.kind != 'b' && message.kind != 'f') return;
    std::optional<RankReport> report = decoded(message.body);
    if (!report || index(report->place.rank) >= peers_.size()) return;
    Peer& about = peers_[index(report->place.rank)]; // itself, or a silent one of its host
    report->place = about.report.place;
    if (message.kind == 'b' && about.full) return;
    about.full = message.kind == 'f';
    about.report = std::move(*report);
    if (message.kind == 'b' && peer.connection) peer.connection->send('a', "");
}

void Watchdog::Watch::take_from_first(const WatchMessage& message) {
    answered_ = seconds_now();
    if (message.kind == 'q') answer(unpacked(message.body));
    if (message.kind == 'e') end(unpacked(message.body));
    if (message.kind == 'g') {
        over_ = over_ || message.body == all_have_come;
        peers_[index(first_)].left = true;
        next_first();
    }
}

void Watchdog::Watch::turn() {
    if (over_) return; // who leaves now is not lost
    const double slept = seconds_now() - last_turn_ > suspended_after ? seconds_now() - last_turn_ : 0;
    last_turn_ = seconds_now();
    if (slept > 0) {
        answered_ = std::min(answered_ + slept, last_turn_);
        for (Peer& peer : peers_)
            peer.heard = std::min(peer.heard + slept, last_turn_);
    }
    RankReport own = report_of(recorder_.own(), of(self_).place, calls_in_beat);
    deadlines_.judge(own, slept);
    leads() ? lead(own) : follow(own);
}

bool Watchdog::Watch::is_dead_here(int rank) const {
    if (!is_neighbour(rank)) return false;
    const ProcessState state = process_state(of(rank).place.pid);
    return state.state == 'X' || state.state == 'Z' || state.started != of(rank).started;
}

void Watchdog::Watch::next_first() {
    ++first_;
    link_.reset();
    refusals_ = 0;
    dialled_ = 0;
    answered_ = leads_since_ = seconds_now();
    for (int rank = 0; rank < static_cast<int>(peers_.size()); ++rank)
        if (rank >= self_) peers_[index(rank)].heard = seconds_now();
}

void Watchdog::Watch::follow(const RankReport& own) {
    Peer& first = peers_[index(first_)];
    const bool is_closed = !link_ || link_->descriptor() < 0;
    if (is_closed) {
        if (link_ && link_->status() == WatchConnection::Status::refused) ++refusals_;
        if (refusals_ >= 2 || (dialled_ > 0 && is_dead_here(first_))) {
            first.gone = true;
            first.heard = answered_;
            return next_first();
        }
        if (link_) link_.reset();
        if (seconds_now() - dialled_ > dial_every) {
            dialled_ = seconds_now();
            link_.emplace(of(first_).address);
            std::string hello(reinterpret_cast<const char*>(roster_.token.data()), roster_.token.size());
            const std::int32_t rank = self_;
            hello.append(reinterpret_cast<const char*>(&rank), sizeof rank);
            link_->send('h', hello);
            beaten_ = 0;
        }
    }
    if (link_ && seconds_now() - beaten_ > beat_every) {
        beaten_ = seconds_now();
        if (link_->status() == WatchConnection::Status::open)
            link_->send('b', encoded(own));
        else if (link_->status() == WatchConnection::Status::connecting && seconds_now() - dialled_ > unreachable_after)
            link_.reset(); // and once more
    }
    if (own.overdue && seconds_now() - answered_ > silent_after) {
        first.heard = answered_;
        next_first();
    }
}

// One that is not heard of: is its process there, is its host?
void Watchdog::Watch::look_after(int rank) {
    Peer& peer = peers_[index(rank)];
    if (peer.gone || peer.left) return;
    const bool connected = peer.connection && peer.connection->descriptor() >= 0;
    if (connected && seconds_now() - peer.heard < silent_after) return;
    if (is_dead_here(rank)) peer.gone = true;
    if (peer.probe && peer.probe->status() == WatchConnection::Status::refused && ++peer.refusals >= 2)
        peer.gone = true;
    if (peer.probe && peer.probe->status() == WatchConnection::Status::connecting) {
        if (seconds_now() - peer.probed > unreachable_after) peer.unreachable = true;
    } else if (peer.probe) {
        if (peer.probe->status() == WatchConnection::Status::open) peer.unreachable = false;
        if (peer.probe->status() == WatchConnection::Status::closed) peer.unreachable = true; // no way to its host
        peer.probe.reset();
    }
    if (peer.gone || (peer.probe && !peer.unreachable) || seconds_now() - peer.probed < dial_every) return;
    peer.probed = seconds_now();
    peer.probe.emplace(of(rank).address);
}

void Watchdog::Watch::lead(const RankReport& own) {
    Peer& self = peers_[index(self_)];
    self.report = own;
    self.heard = seconds_now();
    for (int rank = 0; rank < static_cast<int>(peers_.size()); ++rank)
        if (rank != self_) look_after(rank);
    const bool lost = std::ranges::any_of(peers_, [](const Peer& peer) { return peer.gone; });
    // Who has just become the first knows of its own host only: elsewhere the one before may have been ended for a
    // reason.
    const bool settled = self_ == 0 || seconds_now() - leads_since_ > gathering;
    const bool lost_here = std::ranges::any_of(
        peers_, [&](const Peer& peer) { return peer.gone && is_neighbour(peer.report.place.rank); });
    if (asked_ == 0 && (lost_here || (settled && (lost || is_stalled())))) ask_all();
    if (asked_ == 0) return;
    const bool all_there = std::ranges::all_of(peers_, [&](const Peer& peer) {
        const bool answers = peer.connection && peer.connection->descriptor() >= 0 && !peer.left;
        return &peer == &self || peer.full || !answers;
    });
    if (!lost && !is_stalled()) { // it goes on after all
        asked_ = 0;
        for (Peer& peer : peers_)
            peer.full = false;
        return;
    }
    if (seconds_now() - asked_ > (lost ? certain_after : gathering) || (!lost && all_there)) conclude();
}

// Somebody's deadline is over, and nobody who answers is still within his.
bool Watchdog::Watch::is_stalled() const {
    bool overdue = false;
    for (const Peer& peer : peers_) {
        if (peer.gone || peer.left || seconds_now() - peer.heard > silent_after) continue;
        if (!peer.report.overdue) return false;
        overdue = true;
    }
    return overdue;
}

Watchdog::Watchdog(const World& world, const ProcessGroup& neighbours, const FlightRecorder& recorder, Options options)
    : world_(world), exceptions_(std::uncaught_exceptions()),
      watch_(std::make_unique<Watch>(world, neighbours, recorder, std::move(options))) {}

void Watchdog::write_ranks() const { watch_->write_ranks(); }

// Who is gone before all have come here is lost; who goes after is not.
Watchdog::~Watchdog() {
    if (std::uncaught_exceptions() != exceptions_) return;
    world_.group().barrier();
    watch_->everybody_has_come();
}

} // namespace tessera
