// SPDX-License-Identifier: Apache-2.0
// The words that Open MPI 4.1 has for a rank's end, and the rules of restarts.
#include "launcher/job/ending.hpp"

#include "core/exit_codes.hpp"
#include "launcher/command_line.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <regex>
#include <set>
#include <sstream>
#include <tuple>

namespace tessera {
namespace {

constexpr std::size_t same_step_at_most = 3;
constexpr std::chrono::minutes longest_wait{5};
constexpr int signal_base = 128;

// Its blocks are wrapped at 80 columns.
std::string unwrapped(std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    return std::regex_replace(text, std::regex(" +"), " ");
}

std::string who(int rank, const std::string& host) {
    return host.empty() ? fmt::format("rank {}", rank) : fmt::format("rank {} on {}", rank, host);
}

std::string text_of(const MpirunWord& word) {
    if (word.signal > 0) return fmt::format("was ended by signal {} ({})", word.signal, ::strsignal(word.signal));
    if (word.improper) return "left without a word (without MPI_Finalize)";
    return fmt::format("ended with exit code {}", word.code);
}

// "rank 5 on c03: MESSAGE and 63 more ranks": those who said the same.
std::string with_others(const std::string& message, int rank, const std::vector<RankWord>& ranks) {
    std::set<int> others;
    for (const RankWord& word : ranks)
        if (word.rank != rank && word.message == message) others.insert(word.rank);
    if (others.empty()) return message;
    return fmt::format("{} (and {} more {})", message, others.size(), others.size() == 1 ? "rank" : "ranks");
}

// mpirun leaves the domain off.
bool is_same_host(const std::string& one, const std::string& other) {
    return one.substr(0, one.find('.')) == other.substr(0, other.find('.'));
}

// The first of its ranks, and all in words.
std::pair<int, std::string> ranks_of_lost_host(const std::string& host,
                                               const std::function<std::string(std::int64_t)>& host_of) {
    std::vector<int> ranks;
    for (int rank = 0; !host_of(rank).empty(); ++rank)
        if (is_same_host(host_of(rank), host)) ranks.push_back(rank);
    const std::string why = fmt::format("on {}: the host does not answer, mpirun has lost it", host);
    if (ranks.empty()) return {-1, "the ranks " + why};
    return {ranks[0], fmt::format("{} {} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "), why)};
}

bool is_final(int code) {
    return code == exit_code::usage || code == exit_code::data || code == exit_code::diverged ||
           code == exit_code::interrupted;
}

// What a rank noted itself says more than that it was gone; but when a rank is killed, others may notice first. And
// when a host is lost, mpirun ends all ranks: who misses one of those elsewhere saw only what followed.
bool mpirun_knows_better(const std::optional<JobFailure>& failure, const std::optional<MpirunWord>& word) {
    if (!failure) return word.has_value();
    if (word && word->lost_host)
        return (failure->kind == "lost" || failure->kind == "stalled") &&
               !is_same_host(failure->place.host, word->host);
    return word && word->signal > 0 && word->signal != SIGTERM && word->rank != failure->place.rank &&
           failure->kind != "stalled" && !is_final(failure->code);
}

} // namespace

std::optional<MpirunWord> read_mpirun(const std::string& words) {
    const std::string text = unwrapped(words);
    static const std::regex signalled(R"(process rank (\d+) with PID \d+ on node (\S+) exited on signal (\d+))");
    static const std::regex improper(R"(process rank (\d+) with PID \d+ on node (\S+) exiting improperly)");
    static const std::regex with_code(R"(Process name: \[\[\d+,\d+\],(\d+)\] Exit code: (\d+))");
    static const std::regex host_lost(R"(Remote daemon: \S+ on node (\S+))");
    MpirunWord word;
    std::smatch found;
    if (text.find(lost_daemon) != std::string::npos && std::regex_search(text, found, host_lost)) {
        word.host = found[1];
        word.lost_host = true;
        return word;
    }
    word.improper = std::regex_search(text, found, improper);
    if (word.improper || std::regex_search(text, found, signalled)) {
        word.host = found[2];
        if (!word.improper) word.signal = std::stoi(found[3]);
    } else if (std::regex_search(text, found, with_code)) {
        word.code = std::stoi(found[2]);
    } else {
        return std::nullopt;
    }
    word.rank = std::stoi(found[1]);
    return word;
}

std::vector<RankWord> read_rank_words(const std::string& text) {
    constexpr std::string_view opening = "tessera: rank ";
    std::vector<RankWord> result;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with(opening)) continue;
        const std::size_t end = line.find(": ", opening.size());
        const std::string number = line.substr(opening.size(), end - opening.size());
        if (end == std::string::npos || number.empty() || number.size() > 9 ||
            number.find_first_not_of("0123456789") != std::string::npos)
            continue;
        result.push_back({std::stoi(number), line.substr(end + 2)});
    }
    return result;
}

Ending classify(const ChildEnd& end, const std::optional<JobFailure>& failure, const std::string& mpirun,
                const std::vector<RankWord>& ranks, std::int64_t last_step,
                const std::function<std::string(std::int64_t)>& host_of) {
    Ending result;
    result.step = failure && failure->step >= 0 ? failure->step : last_step + 1;
    if (end.asked == Asked::end_now) return {exit_code::interrupted, false, -1, result.step, ""};
    if (end.code == exit_code::done || end.code == exit_code::run_again) return {end.code, false, -1, -1, ""};

    const std::optional<MpirunWord> word = read_mpirun(mpirun);
    if (mpirun_knows_better(failure, word) && word->lost_host) {
        std::tie(result.rank, result.sentence) = ranks_of_lost_host(word->host, host_of);
        result.code = exit_code::lost;
    } else if (mpirun_knows_better(failure, word)) {
        result.rank = word->rank;
        result.code = word->code == exit_code::failure || is_final(word->code) ? word->code : exit_code::lost;
        const auto own =
            std::find_if(ranks.begin(), ranks.end(), [&](const RankWord& w) { return w.rank == word->rank; });
        const std::string host = host_of(word->rank).empty() ? word->host : host_of(word->rank);
        if (own != ranks.end() && word->code > 0) { // it said why
            result.sentence =
                fmt::format("{}: {}", who(word->rank, host), with_others(own->message, word->rank, ranks));
        } else {
            result.sentence = fmt::format("{} {}", who(word->rank, host), text_of(*word));
        }
    } else if (failure) {
        result.rank = failure->place.rank;
        result.code = failure->code;
        const std::string name =
            who(result.rank, failure->place.host.empty() ? host_of(result.rank) : failure->place.host);
        const std::string message = with_others(failure->message, result.rank, ranks);
        const bool killed = word && word->signal > 0 && word->rank == result.rank && failure->kind == "lost";
        result.sentence = killed                            ? fmt::format("{} {}: {}", name, text_of(*word), message)
                          : message.starts_with(name + " ") ? message
                                                            : fmt::format("{}: {}", name, message);
    } else if (!ranks.empty()) {
        result.rank = ranks[0].rank;
        result.code = end.code == exit_code::failure || is_final(end.code) ? end.code : exit_code::lost;
        result.sentence = fmt::format("{}: {}", who(result.rank, host_of(result.rank)),
                                      with_others(ranks[0].message, result.rank, ranks));
    } else {
        result.code = is_final(end.code) ? end.code : exit_code::lost;
        result.sentence = end.ended_by_us && end.asked == Asked::nothing
                              ? "no rank was left on this host, and what started them waited on"
                          : end.code > signal_base
                              ? fmt::format("what started the ranks was ended by signal {} ({})",
                                            end.code - signal_base, ::strsignal(end.code - signal_base))
                              : fmt::format("what started the ranks ended with exit code {}", end.code);
    }
    result.may_restart = !is_final(result.code) && end.asked == Asked::nothing;
    return result;
}

bool RestartPolicy::again(const Ending& ending) {
    why_not_.clear();
    if (ending.step != failed_step_ || ending.step < 0) failed_on_.clear();
    failed_step_ = ending.step;
    failed_on_.push_back(ending.rank);
    if (!ending.may_restart) return false;
    if (failed_on_.size() >= same_step_at_most) {
        std::vector<int> named = failed_on_;
        std::sort(named.begin(), named.end());
        named.erase(std::unique(named.begin(), named.end()), named.end());
        why_not_ = fmt::format("step {} failed {} times", failed_step_, failed_on_.size());
        if (named.front() >= 0)
            why_not_ += fmt::format(" on {} {}", named.size() == 1 ? "rank" : "ranks", fmt::join(named, ", "));
        return false;
    }
    if (restarts_ == most_) {
        if (most_ > 0) why_not_ = fmt::format("no restart is left of {} (--max-restarts)", most_);
        return false;
    }
    ++restarts_;
    return true;
}

std::chrono::milliseconds RestartPolicy::wait() const {
    std::chrono::milliseconds wait = delay_;
    for (std::int64_t i = 1; i < restarts_ && wait < longest_wait; ++i)
        wait *= 2;
    return std::min<std::chrono::milliseconds>(wait, longest_wait);
}

} // namespace tessera
