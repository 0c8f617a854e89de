// SPDX-License-Identifier: Apache-2.0
// Signals are blocked and waited for, so that no handler runs.
#include "launcher/job/child.hpp"

#include "core/exit_codes.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace tessera {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kill_after{5}; // a signal that had no effect
constexpr std::chrono::milliseconds look_every{100};

// What has been asked of the child, and what must happen when.
class Request {
public:
    Request(pid_t child, std::chrono::seconds grace) : child_(child), grace_(grace) {}

    void signal(int signal) {
        if (signal == SIGUSR2) {
            to_send_.push_back(SIGUSR2);
            return;
        }
        if (signal == SIGINT || signal == SIGTERM) ++insisted_;
        if (asked_ == Asked::nothing || signal == SIGUSR1) {
            to_send_.push_back(SIGUSR1);
            if (asked_ == Asked::nothing && stage_ == 0) deadline_ = Clock::now() + grace_;
            asked_ = std::max(asked_, Asked::save_and_stop);
        }
        if (insisted_ > 1 && asked_ != Asked::end_now) {
            asked_ = Asked::end_now;
            interrupted_ = signal == SIGINT;
            end_now();
        }
    }
    void end_now() {
        if (stage_ == 0) advance();
    }
    void send() {
        for (const int signal : to_send_)
            ::kill(child_, signal);
        to_send_.clear();
    }
    // Whether waiting is over.
    bool look() {
        if (Clock::now() >= deadline_) advance();
        return stage_ > 2;
    }
    // The child's end with this code, as the caller gets it.
    ChildEnd end(int code) const { return {interrupted_ ? exit_code::interrupted : code, asked_, stage_ > 0}; }

private:
    void advance() {
        ++stage_;
        if (stage_ == 1) ::kill(child_, SIGTERM);
        if (stage_ == 2) ::kill(child_, SIGKILL);
        deadline_ = Clock::now() + kill_after;
    }

    pid_t child_;
    std::chrono::seconds grace_;
    std::vector<int> to_send_; // when it is ready
    Asked asked_ = Asked::nothing;
    bool interrupted_ = false; // by the second signal of a terminal
    int insisted_ = 0; // SIGINT and SIGTERM: who sends a second one means it; a closed terminal sends two SIGHUP
    int stage_ = 0;    // SIGTERM sent, SIGKILL sent, given up
    Clock::time_point deadline_ = Clock::time_point::max();
};

} // namespace

SignalInbox::SignalInbox() {
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGCHLD, SIGINT, SIGTERM, SIGUSR1, SIGUSR2})
        sigaddset(&set, signal);
    struct sigaction hang_up {}; // who was started by nohup means it
    if (::sigaction(SIGHUP, nullptr, &hang_up) != 0 || hang_up.sa_handler != SIG_IGN) sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, &before_);
    descriptor_ = Descriptor(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (descriptor_.number() < 0) throw SystemError(fmt::format("cannot wait for signals: {}", std::strerror(errno)));
}

SignalInbox::~SignalInbox() { sigprocmask(SIG_SETMASK, &before_, nullptr); }

int SignalInbox::next(std::chrono::milliseconds at_most, const Descriptor* other) const {
    const Clock::time_point until = Clock::now() + at_most;
    for (;;) {
        signalfd_siginfo info{};
        if (::read(descriptor_.number(), &info, sizeof info) == sizeof info)
            return info.ssi_signo == SIGCHLD ? 0 : static_cast<int>(info.ssi_signo);
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
        if (left <= 0) return 0;
        std::array<pollfd, 2> ready{{{descriptor_.number(), POLLIN, 0}, {other ? other->number() : -1, POLLIN, 0}}};
        ::poll(ready.data(), ready.size(), static_cast<int>(std::min<long long>(left, 1'000'000)));
        if (ready[1].revents != 0 && (ready[0].revents & POLLIN) == 0) return 0;
    }
}

ChildEnd run_child(const std::vector<std::string>& command, const std::map<std::string, std::string>& environment,
                   std::chrono::seconds grace, const SignalInbox& signals, const Watch& watch) {
    Pipe words;
    Outputs outputs;
    if (watch.said) {
        words = make_pipe();
        ::fcntl(words.read.number(), F_SETFL, O_NONBLOCK);
        outputs.error = words.write.number();
    }
    const pid_t child = start_process(command, environment, outputs);
    words.write = Descriptor();
    const auto listen = [&] { // the pipe of one who has ended may be open in a process that it has left
        if (!watch.said) return;
        if (const std::string text = read_available(words.read); !text.empty()) watch.said(text);
    };
    Request request(child, grace);
    for (;;) {
        std::optional<int> code = exit_code_of(child);
        if (!code && request.look()) code = 128 + SIGKILL;
        listen();
        if (code) return request.end(*code);
        if (watch.must_end && watch.must_end()) request.end_now();
        if (const int signal = signals.next(look_every); signal != 0) request.signal(signal);
        if (!watch.ready || watch.ready()) request.send();
    }
}

std::string output_of(const std::vector<std::string>& command, std::chrono::seconds at_most) {
    Pipe output = make_pipe();
    pid_t child = -1;
    try {
        child = start_process(command, {}, {output.write.number(), output.write.number()});
    } catch (const SystemError&) {
        return ""; // a program that is not installed says nothing
    }
    output.write = Descriptor();
    ::fcntl(output.read.number(), F_SETFL, O_NONBLOCK);
    const Clock::time_point until = Clock::now() + at_most;
    std::string text;
    for (;;) {
        const std::optional<int> code = exit_code_of(child);
        text += read_available(output.read);
        if (code) return *code == 0 ? text : "";
        if (Clock::now() >= until) {
            ::kill(child, SIGKILL);
            wait_for(child);
            return "";
        }
        pollfd ready{output.read.number(), POLLIN, 0};
        ::poll(&ready, 1, 20);
        if ((ready.revents & (POLLHUP | POLLERR)) != 0) ::usleep(1000); // closed: its end is near
    }
}

} // namespace tessera
