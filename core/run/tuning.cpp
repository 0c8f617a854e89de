// SPDX-License-Identifier: Apache-2.0
// Texts travel between the ranks and into the file: a few lines for each shape.
#include "core/run/tuning.hpp"

#include "core/run/text_file.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fstream>
#include <set>
#include <sstream>

namespace tessera {
namespace {

ChoiceWords words_in(const std::string& text, const std::string& place) {
    ChoiceWords words;
    std::istringstream stream(text);
    for (std::string word; stream >> word;) {
        const char* const end = word.data() + word.size();
        if (const auto read = std::from_chars(word.data(), end, words.emplace_back());
            read.ptr != end || read.ec != std::errc())
            throw ConfigError(fmt::format("{}: \"{}\" is no choice", place, text));
    }
    if (words.empty()) throw ConfigError(fmt::format("{}: \"{}\" is no choice", place, text));
    return words;
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);)
        lines.push_back(line);
    return lines;
}

// Of all ranks, each once, in an order of their own.
std::vector<ChoiceWords> union_of(const std::vector<std::string>& by_rank) {
    std::set<ChoiceWords> all;
    for (const std::string& text : by_rank)
        for (const std::string& line : lines_of(text))
            all.insert(words_in(line, "what a rank asks"));
    return {all.begin(), all.end()};
}

std::string asked_text(const std::vector<ChoiceWords>& asked) {
    std::string text;
    for (const ChoiceWords& words : asked)
        text += fmt::format("{}\n", fmt::join(words, " "));
    return text;
}

bool has_choice(const LibraryChoices& choices, const ChoiceWords& asked) {
    const auto at = choices.lower_bound(asked);
    return at != choices.end() && at->first.size() >= asked.size() &&
           std::equal(asked.begin(), asked.end(), at->first.begin());
}

// None where there is no file, or one of other libraries.
LibraryChoices kept_choices(const std::filesystem::path& file, const std::string& libraries) {
    std::ifstream stream(file);
    std::string first;
    if (!std::getline(stream, first) || first != libraries) return {};
    const std::string rest{std::istreambuf_iterator<char>(stream), {}};
    return choices_in(rest, file.string());
}

// What rank 0 has timed is right for the others on a GPU and libraries like its own alone.
void check_libraries_are_alike(const Team& team, const Stream& stream) {
    const std::vector<std::string> libraries = team.gather(libraries_text(stream));
    std::string unlike;
    for (std::size_t rank = 1; rank < libraries.size() && unlike.empty(); ++rank)
        if (libraries[rank] != libraries[0])
            unlike = fmt::format("run.tune wants equal GPUs and libraries: rank 0 has {}, rank {} {}", libraries[0],
                                 rank, libraries[rank]);
    unlike = team.broadcast(unlike);
    if (!unlike.empty()) throw ConfigError(unlike);
}

// Rank 0's.
LibraryAgreement tune(const Team& team, Stream& stream, const std::filesystem::path& file) {
    check_libraries_are_alike(team, stream);
    const std::vector<std::string> asked = team.gather(asked_text(asked_of_libraries(stream)));
    LibraryAgreement agreement;
    std::string chosen;
    if (team.rank == 0) {
        const std::string libraries = libraries_text(stream);
        LibraryChoices choices = kept_choices(file, libraries);
        std::vector<ChoiceWords> unknown = union_of(asked);
        const std::size_t all = unknown.size();
        std::erase_if(unknown, [&](const ChoiceWords& words) { return has_choice(choices, words); });
        if (!unknown.empty()) choices.merge(try_libraries(stream, unknown));
        chosen = text_of(choices);
        if (!unknown.empty()) replace_file(file, libraries + "\n" + chosen);
        agreement.text = fmt::format("tuned: {} of {} shapes timed now; runs with another {} may give other bits",
                                     unknown.size(), all, file.string());
    }
    settle_libraries(stream, choices_in(team.broadcast(chosen), "rank 0"));
    return agreement;
}

// By a kernel of ours where one rank has no plan.
void keep_together(const Team& team, Stream& stream) {
    LibraryChoices own = try_libraries(stream, asked_of_libraries(stream));
    const std::vector<std::string> all = team.gather(text_of(own));
    LibraryChoices ours;
    for (const std::string& text : all)
        for (const auto& [words, chosen] : choices_in(text, "a rank"))
            if (chosen == by_our_kernel) ours.insert_or_assign(words, chosen);
    for (const auto& [words, chosen] : choices_in(team.broadcast(text_of(ours)), "rank 0"))
        own.insert_or_assign(words, chosen);
    settle_libraries(stream, own);
}

} // namespace

std::string text_of(const LibraryChoices& choices) {
    std::string text;
    for (const auto& [words, chosen] : choices)
        text += fmt::format("{} : {}\n", fmt::join(words, " "), fmt::join(chosen, " "));
    return text;
}

LibraryChoices choices_in(const std::string& text, const std::string& place) {
    LibraryChoices choices;
    for (const std::string& line : lines_of(text)) {
        const std::size_t colon = line.find(" : ");
        if (colon == std::string::npos) throw ConfigError(fmt::format("{}: \"{}\" is no choice", place, line));
        choices[words_in(line.substr(0, colon), place)] = words_in(line.substr(colon + 3), place);
    }
    return choices;
}

LibraryAgreement agree_on_libraries(const Team& team, const Config& config, Stream& stream,
                                    const std::filesystem::path& folder) {
    const bool tunes = config.get(run_tune);
    if (std::holds_alternative<CpuStream>(stream)) return {};
    LibraryAgreement agreement;
    if (tunes)
        agreement = tune(team, stream, folder / "tuning.txt");
    else
        keep_together(team, stream);
    if (const std::string trouble = cudnn_trouble(stream); !trouble.empty())
        agreement.warning =
            fmt::format("cuDNN failed on rank {}: {}; kernels of ours do its work on all ranks", team.rank, trouble);
    return agreement;
}

} // namespace tessera
