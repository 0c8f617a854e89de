// SPDX-License-Identifier: Apache-2.0
// Plan, start, watch, classify, clean; and again.
#include "launcher/job/supervise.hpp"

#include "core/checkpoint/checkpoint.hpp"
#include "core/exit_codes.hpp"
#include "launcher/command_line.hpp"
#include "launcher/diagnosis/surroundings.hpp"
#include "launcher/job/attempt.hpp"
#include "launcher/job/clean.hpp"
#include "launcher/job/run_lock.hpp"
#include "parallel/communication/lost_error.hpp"

#include <csignal>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tessera {
namespace {

constexpr std::chrono::seconds clean_within{5};
constexpr std::int64_t counts_tried = 64;   // each takes a plan, a second or less
constexpr std::int64_t counts_searched = 8; // each takes a search, which for large models is many plans
constexpr std::chrono::seconds search_within{300};

using WallClock = RunProgress::Clock;

double seconds_between(WallClock::time_point from, WallClock::time_point to) {
    return std::max(std::chrono::duration<double>(to - from).count(), 0.0);
}

// What a restart has cost, from the last sign of life before it, in the parts that can be told apart from outside.
class RestartTime {
public:
    void failed(const Attempt& attempt) {
        last_sign_ = attempt.progress.last_sign().value_or(attempt.started);
        noticed_ = attempt.noticed;
        cleaned_ = attempt.cleaned;
    }
    // Empty while the attempt has not made a step.
    std::string text(const RunProgress& progress, WallClock::time_point started) const {
        if (!progress.first_step()) return "";
        return fmt::format(
            "{:.1f} s from the last step to the next: {:.1f} until it was noticed, {:.1f} to end the job "
            "and clean up, {:.1f} waited, {:.1f} to start the ranks, {:.1f} to load, {:.1f} for the step",
            seconds_between(last_sign_, *progress.first_step()), seconds_between(last_sign_, noticed_),
            seconds_between(noticed_, cleaned_), seconds_between(cleaned_, started),
            seconds_between(started, *progress.ranks_known()),
            seconds_between(*progress.ranks_known(), *progress.loaded()),
            seconds_between(*progress.loaded(), *progress.first_step()));
    }

private:
    WallClock::time_point last_sign_, noticed_, cleaned_;
};

std::string ranks_text(std::int64_t least, std::int64_t most) {
    if (least < most) return fmt::format("{} to {} ranks", least, most);
    return fmt::format("{} rank{}", most, most == 1 ? "" : "s");
}

struct Stopped {}; // by a signal, while no rank was there to pass it on to

class Supervisor {
public:
    Supervisor(const std::vector<std::string>& program, const Wish& wish, const Supervision& supervision,
               std::string id, RunLock& lock)
        : lock_(lock), program_(program), wish_(wish), supervision_(supervision), id_(std::move(id)),
          voice_("launch", supervision.run_folder), here_(this_host()),
          policy_(supervision.max_restarts, supervision.restart_delay) {}

    int run();

private:
    // The job of the next attempt, on the hosts that answer. LostError when they have no room for it.
    Job plan();
    struct Smaller {
        std::int64_t ranks;
        std::vector<std::string> words;
        bool same_bits;
    };
    Smaller layout_on(std::int64_t room, std::int64_t wanted); // Stopped, LostError
    bool stopped();
    Attempt attempt(const Job& job);
    // Whether to go on after the wait; a signal meanwhile ends the run.
    bool wait();
    int ended_between() const;

    RunLock& lock_;
    const std::vector<std::string>& program_;
    const Wish& wish_;
    const Supervision& supervision_;
    std::string id_;
    SignalInbox signals_;
    Voice voice_;
    Surroundings here_;
    RestartPolicy policy_;
    RestartTime time_;
    std::int64_t number_ = 0; // of attempts
    bool begun_ = false;      // an attempt came as far as its first step
    bool stopped_ = false;
};

// Whether a signal that ends the run has come.
bool Supervisor::stopped() {
    const int signal = signals_.next(std::chrono::milliseconds(0));
    stopped_ = stopped_ || (signal != 0 && signal != SIGUSR2);
    return stopped_;
}

// As many ranks as can be without another result; only where none of those that are tried can, such as change its last
// bits.
Supervisor::Smaller Supervisor::layout_on(std::int64_t room, std::int64_t wanted) {
    const std::int64_t tried = std::max(supervision_.min_ranks, room - counts_tried + 1);
    const std::int64_t searched = std::max(supervision_.min_ranks, room - counts_searched + 1);
    voice_.say(fmt::format("looking for a layout of {}", ranks_text(tried, room)));
    using Clock = std::chrono::steady_clock;
    const Clock::time_point until = Clock::now() + search_within; // of what searches: a plan of the config is quick
    std::string refusal;
    const auto ask = [&](std::int64_t ranks, Freedom freedom) {
        if (stopped()) throw Stopped();
        const Clock::time_point end = freedom == Freedom::data ? Clock::now() + search_within : until;
        const auto words = supervision_.fit({ranks, wanted, freedom, end, [this] { return stopped(); }}, refusal);
        if (stopped()) throw Stopped();
        return words;
    };
    for (std::int64_t ranks = room; ranks >= tried; --ranks) {
        if (const auto words = ask(ranks, Freedom::data)) return {ranks, *words, true};
        if (ranks < searched || Clock::now() >= until) continue;
        if (const auto words = ask(ranks, Freedom::same_bits)) return {ranks, *words, true};
    }
    for (std::int64_t ranks = room; ranks >= searched && Clock::now() < until; --ranks)
        if (const auto words = ask(ranks, Freedom::any)) return {ranks, *words, false};
    const std::string given_up =
        Clock::now() < until ? "" : fmt::format(" within {} s of searching", search_within.count());
    throw LostError(fmt::format("no layout of {} was found{}: {}", ranks_text(tried, room), given_up, refusal));
}

Job Supervisor::plan() {
    Wish wish = wish_;
    std::vector<std::string> program = program_, silent;
    if (number_ == 1) program.insert(program.begin() + 2, supervision_.once.begin(), supervision_.once.end());
    if (!wish.hosts.empty()) {
        here_.others.clear();
        wish.hosts = ask_shapes(program_[0], wish_, here_, silent);
        const std::int64_t wanted = wish_.ranks == 0 ? slots_of(wish_.hosts) : wish_.ranks, room = slots_of(wish.hosts);
        for (const std::string& line : silent)
            voice_.say(line);
        if (room < wanted) {
            if (silent.empty()) share_ranks(wanted, wish.hosts); // refuses
            if (supervision_.min_ranks == 0 || room < supervision_.min_ranks)
                throw LostError(fmt::format("room for {} of {} ranks is left{}", room, wanted,
                                            supervision_.min_ranks == 0 ? " (--min-ranks would allow fewer)" : ""));
            const auto [ranks, words, same_bits] = layout_on(room, wanted);
            wish.ranks = ranks;
            program.insert(program.end(), words.begin(), words.end());
            voice_.say(fmt::format(
                "going on with {} of {} ranks on {}{}{}{}", ranks, wanted, text_of(wish.hosts),
                words.empty() ? "" : ", with ", fmt::join(words, " "),
                same_bits ? "" : ": no layout that keeps every bit was found, this one differs in rounding"));
        }
    }
    // Wherever the run began: a restart goes on with what it has saved itself.
    if (begun_ && !newest_checkpoint((supervision_.run_folder / "checkpoints").string()).empty())
        program.push_back("checkpoint.resume=auto");
    return plan_job(program, wish, here_, fmt::format("{}.{}", id_.substr(0, id_.find('.')), number_));
}

Attempt Supervisor::attempt(const Job& job) {
    for (const std::string& note : job.notes)
        voice_.say(note);
    voice_.write_down(job_text(job, here_));
    lock_.tell(job.id);
    if (number_ == 1)
        clear_job_folder(supervision_.run_folder);
    else
        set_job_folder_aside(supervision_.run_folder);
    return run_attempt(job, wish_, supervision_.run_folder, supervision_.patience, signals_, voice_);
}

bool Supervisor::wait() {
    const auto until = std::chrono::steady_clock::now() + policy_.wait();
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
        if (left.count() <= 0) return true;
        const int signal = signals_.next(left);
        if (signal != 0 && signal != SIGUSR2) return false;
    }
}

int Supervisor::ended_between() const {
    std::error_code error;
    const bool saved = std::filesystem::exists(supervision_.run_folder / "checkpoints", error);
    return saved ? exit_code::run_again : exit_code::interrupted;
}

int Supervisor::run() {
    for (;;) {
        ++number_;
        Ending ending;
        try {
            const Job job = plan();
            const Attempt attempt = this->attempt(job);
            ending = attempt.ending;
            begun_ = begun_ || attempt.progress.loaded().has_value();
            if (number_ > 1)
                if (const std::string text = time_.text(attempt.progress, attempt.started); !text.empty())
                    voice_.say(fmt::format("restart {}: {}", number_ - 1, text));
            time_.failed(attempt);
        } catch (const Stopped&) {
            return ended_between();
        } catch (const LostError& error) { // hosts may come back
            ending = {exit_code::lost, true, -1, -1, error.what()};
        }
        if (ending.sentence.empty()) return ending.code;
        const bool again = policy_.again(ending);
        voice_.say(again ? fmt::format("{}; restart {} of {} in {:g} s", ending.sentence, policy_.restarts(),
                                       supervision_.max_restarts, std::chrono::duration<double>(policy_.wait()).count())
                         : ending.sentence);
        if (!policy_.why_not().empty()) voice_.say(policy_.why_not());
        if (!again) return ending.code;
        if (!wait()) return ended_between();
    }
}

} // namespace

int supervise(const std::vector<std::string>& program, const Wish& wish, const Supervision& supervision) {
    std::signal(SIGPIPE, SIG_IGN); // the job goes on when nobody reads what is said of it
    const std::string id = new_job_id(1);
    RunLock lock(supervision.run_folder, id);
    if (is_job_id(lock.left())) clean_this_host(lock.left(), clean_within);
    Supervisor supervisor(program, wish, supervision, id, lock);
    if (!lock.warning().empty()) Voice("launch", supervision.run_folder).say(lock.warning());
    return supervisor.run();
}

} // namespace tessera
