// SPDX-License-Identifier: Apache-2.0
// mpirun's own words are kept apart from those of rank 0, which come the same way.
#include "launcher/job/attempt.hpp"

#include "core/exit_codes.hpp"
#include "launcher/command_line.hpp"
#include "launcher/diagnosis/surroundings.hpp"
#include "launcher/job/clean.hpp"
#include "launcher/job/remote.hpp"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fstream>
#include <sstream>

namespace tessera {
namespace {

constexpr std::chrono::seconds abort_within{10}; // of the job, from the first failure that a rank has noted
constexpr std::chrono::seconds clean_within{5};
constexpr std::chrono::seconds clean_answer_within{15}; // the remote shell's own time besides
constexpr std::size_t most_kept = 1 << 18;              // bytes of mpirun's words
constexpr int lines_of_verdict = 15;

// Takes the launcher's error output apart: what Open MPI puts between lines of dashes is for the log, and for whoever
// asks why; all else is rank 0's, and goes on to the console.
class Listener {
public:
    explicit Listener(Voice& voice) : voice_(voice) {}

    void hear(std::string_view text) {
        pending_ += text;
        for (std::size_t end = 0; (end = pending_.find('\n')) != std::string::npos; pending_.erase(0, end + 1))
            line(pending_.substr(0, end + 1));
    }
    void finish() {
        if (!pending_.empty()) line(pending_ + '\n');
        pending_.clear();
    }
    // mpirun has said all of it.
    bool has_lost_host() const { return has_lost_host_ && !inside_; }
    const std::string& blocks() const { return blocks_; } // Open MPI's
    const std::string& others() const { return others_; } // rank 0's

private:
    void line(const std::string& line) {
        const bool dashes = line.size() > 40 && line.find_first_not_of('-') == line.size() - 1;
        if (dashes) inside_ = !inside_;
        has_lost_host_ = has_lost_host_ || (inside_ && line.find(lost_daemon) != line.npos);
        std::string& kept = inside_ || dashes ? blocks_ : others_;
        if (kept.size() < most_kept) kept += line;
        if (inside_ || dashes)
            voice_.write_down(line);
        else
            voice_.pass_on(line);
    }

    Voice& voice_;
    std::string pending_, blocks_, others_;
    bool inside_ = false, has_lost_host_ = false;
};

// Unless the rank that wrote it is rank 0, which says it here itself.
void show_verdict(const std::filesystem::path& path, const std::string& said, Voice& voice) {
    std::ifstream file(path);
    std::string line, text;
    for (int i = 0; i < lines_of_verdict && std::getline(file, line); ++i) {
        if (!line.empty() && said.find(line) != std::string::npos) return;
        text += "  " + line + '\n';
    }
    if (text.empty()) return;
    voice.pass_on(text);
    voice.say(fmt::format("all of it: {}", path.string()));
}

void clean_elsewhere(const Job& job, const Wish& wish, Voice& voice) {
    const std::vector<std::string> command{this_program(), "host", "--clean", job.id};
    if (job.nodes > 1 || job.slurm) { // what Slurm's nodes are called only srun knows: a step once on each
        std::vector<std::string> words{"srun",
                                       "--mpi=none",
                                       "--overlap",
                                       "--input=none",
                                       "--ntasks-per-node=1",
                                       fmt::format("--nodes={}", job.nodes),
                                       fmt::format("--ntasks={}", job.nodes)};
        words.insert(words.end(), command.begin(), command.end());
        const Answer answer = ask_hosts({"localhost"}, "", words, clean_answer_within)[0];
        if (!answer.came)
            voice.say(fmt::format("what job {} has left on Slurm's nodes may not be removed: {}", job.id,
                                  answer.text.substr(0, answer.text.find('\n'))));
        return;
    }
    std::vector<std::string> names;
    for (const HostSlots& host : job.hosts)
        if (!is_this_host(host.name)) names.push_back(host.name);
    const std::vector<Answer> answers = ask_hosts(names, wish.remote_shell, command, clean_answer_within);
    for (std::size_t i = 0; i < names.size(); ++i)
        if (!answers[i].came)
            voice.say(fmt::format("what job {} has left on {} is not removed: {}", job.id, names[i],
                                  answers[i].text.substr(0, answers[i].text.find('\n'))));
}

// mpirun was seen to wait on when no rank was left.
class RanksOfThisHost {
public:
    RanksOfThisHost(std::string job, std::filesystem::path run_folder)
        : job_(std::move(job)), run_folder_(std::move(run_folder)) {}

    // Once the ranks are known: whether there were some here, and all have been gone for ten seconds.
    bool long_gone() {
        if (processes_.empty())
            for (const RankPlace& place : read_ranks(run_folder_))
                if (is_this_host(place.host)) processes_.push_back(place.pid);
        const auto now = std::chrono::steady_clock::now();
        if (processes_.empty() || std::ranges::any_of(processes_, [&](auto pid) { return is_of_job(pid, job_); }))
            last_seen_ = now;
        return now - last_seen_ > abort_within;
    }

private:
    std::string job_;
    std::filesystem::path run_folder_;
    std::vector<std::int64_t> processes_;
    std::chrono::steady_clock::time_point last_seen_ = std::chrono::steady_clock::now();
};

void clean_all(const Job& job, const Wish& wish, Voice& voice) {
    for (const std::string& line : clean_this_host(job.id, clean_within).left)
        voice.say(line);
    clean_elsewhere(job, wish, voice);
}

} // namespace

Voice::Voice(std::string name, const std::filesystem::path& run_folder) : name_(std::move(name)) {
    if (run_folder.empty()) return;
    std::error_code ignored; // what cannot be written down is said all the same
    std::filesystem::create_directories(run_folder / "logs", ignored);
    log_ = run_folder / "logs" / "launch.log";
}

void Voice::say(const std::string& sentence) {
    if (sentence == last_) return;
    last_ = sentence;
    const std::string line = fmt::format("tessera {}: {}\n", name_, sentence);
    std::fwrite(line.data(), 1, line.size(), stderr);
    write_down(fmt::format("[{:%Y-%m-%d %H:%M:%S}] {}\n", fmt::localtime(std::time(nullptr)), sentence));
}

void Voice::pass_on(const std::string& text) {
    last_.clear();
    std::fwrite(text.data(), 1, text.size(), stderr);
    write_down(text);
}

void Voice::write_down(const std::string& text) {
    if (log_.empty()) return;
    std::ofstream(log_, std::ios::app) << text;
}

Attempt run_attempt(const Job& job, const Wish& wish, const std::filesystem::path& run_folder, const Patience& patience,
                    const SignalInbox& signals, Voice& voice) {
    using Clock = RunProgress::Clock;
    const bool with_folder = !run_folder.empty();
    RunProgress progress(run_folder, with_folder ? job.ranks : 0);
    Listener listener(voice);
    std::optional<JobFailure> failure;
    std::optional<Clock::time_point> noticed;
    const auto host_of = [&job](std::int64_t rank) { return job.host_of(rank); };
    const auto classified = [&](const ChildEnd& end) {
        std::vector<RankWord> words = read_rank_words(listener.others());
        const std::vector<RankWord> logged = progress.words();
        words.insert(words.end(), logged.begin(), logged.end());
        return classify(end, failure, listener.blocks(), words, with_folder ? progress.last_step() : -1, host_of);
    };
    const auto noted = [&]() -> std::optional<JobFailure> { // by a rank of this attempt
        std::optional<JobFailure> found = read_failure(run_folder);
        return found && found->job == job.id ? found : std::nullopt;
    };
    const Clock::time_point started = Clock::now();
    RanksOfThisHost here(job.id, run_folder);
    bool late = false;
    Watch watch;
    watch.said = [&](std::string_view text) { listener.hear(text); };
    watch.must_end = [&] {
        if (!with_folder) return false;
        progress.look();
        if (!failure && (failure = noted())) {
            noticed = Clock::now();
            voice.say(classified({failure->code, Asked::nothing, false}).sentence);
        }
        if (!noticed && listener.has_lost_host()) {
            noticed = Clock::now();
            voice.say(classified({exit_code::lost, Asked::nothing, false}).sentence);
        }
        // Before MPI has started no rank watches another.
        late = late || (!failure && !progress.ranks_known() && Clock::now() - started > patience.start);
        if (progress.ranks_known() && here.long_gone()) return true;
        return late || (noticed && Clock::now() - *noticed > abort_within);
    };
    watch.ready = [&] { return !with_folder || progress.ranks_known(); };
    const ChildEnd child = run_child(job.command, job.environment, patience.grace, signals, watch);
    if (!noticed) noticed = Clock::now();
    listener.finish();
    if (with_folder && !failure) failure = noted();
    clean_all(job, wish, voice);
    Ending ending = classified(child);
    if (late && ending.may_restart)
        ending = {exit_code::lost, true, -1, -1,
                  fmt::format("the ranks have not come together in {} s", patience.start.count())};
    if (ending.code != exit_code::done && !failure && ending.rank < 0 && !listener.blocks().empty())
        voice.pass_on(listener.blocks());                                       // nobody else says why
    if (failure && ending.sentence.find(failure->message) != std::string::npos) // not what only followed
        show_verdict(job_folder(run_folder) / "verdict.txt", listener.others(), voice);
    return {ending, child, progress, started, *noticed, Clock::now()};
}

} // namespace tessera
