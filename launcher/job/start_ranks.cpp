// SPDX-License-Identifier: Apache-2.0
// From hosts and a number of ranks to running processes.
#include "launcher/job/start_ranks.hpp"

#include "core/exit_codes.hpp"
#include "launcher/job/attempt.hpp"
#include "launcher/job/clean.hpp"
#include "parallel/communication/lost_error.hpp"

#include <algorithm>
#include <cstdio>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tessera {
namespace {

std::vector<std::string> program_of(const std::vector<std::string>& words) {
    std::vector<std::string> program{this_program()};
    program.insert(program.end(), words.begin(), words.end());
    return program;
}

} // namespace

int show_job(const std::string& name, const std::vector<std::string>& words, const Wish& wish) {
    Surroundings here = this_host();
    std::vector<std::string> silent;
    if (!wish.hosts.empty()) ask_shapes(this_program(), wish, here, silent);
    const Job job = plan_job(program_of(words), wish, here, new_job_id(1));
    for (const std::vector<std::string>& lines : {job.notes, silent})
        for (const std::string& line : lines)
            fmt::print(stderr, "tessera {}: {}\n", name, line);
    fmt::print("{}", job_text(job, here));
    return silent.empty() ? exit_code::done : exit_code::lost;
}

bool starts_ranks(const Arguments& arguments) {
    return std::ranges::any_of(options_of_ranks(), [&](const Option& option) {
        return arguments.has(option.names.substr(0, option.names.find(',')));
    });
}

int start_ranks(const std::string& name, const std::vector<std::string>& options, const Arguments& arguments) {
    std::vector<std::string> words{name};
    for (const std::string& option : options)
        if (const std::optional<std::string> text = arguments.text(option)) {
            words.push_back("--" + option);
            if (!text->empty()) words.push_back(*text);
        }
    words.insert(words.end(), arguments.words().begin(), arguments.words().end());
    const Wish wish = wish_of(arguments);
    if (arguments.has("dry-run")) return show_job(name, words, wish);
    Surroundings here = this_host();
    std::vector<std::string> silent;
    if (!wish.hosts.empty()) ask_shapes(this_program(), wish, here, silent);
    if (!silent.empty()) throw LostError(fmt::format("{}", fmt::join(silent, "; ")));
    const Job job = plan_job(program_of(words), wish, here, new_job_id(1));
    Voice voice(name, {});
    for (const std::string& note : job.notes)
        voice.say(note);
    const SignalInbox signals;
    const Attempt attempt = run_attempt(job, wish, {}, {.grace = grace_of(arguments)}, signals, voice);
    if (attempt.ending.code == exit_code::lost) voice.say(attempt.ending.sentence);
    return attempt.child.code;
}

} // namespace tessera
