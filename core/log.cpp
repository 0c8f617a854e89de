// SPDX-License-Identifier: Apache-2.0
// Console and file of a rank. The only file that includes spdlog.
#include "core/log.hpp"

#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <map>
#include <spdlog/logger.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <sstream>
#include <stdio_ext.h>
#include <system_error>
#include <unistd.h>

namespace tessera {
namespace {

constexpr std::string_view erase_line = "\r\033[K";
constexpr std::string_view red = "\033[31m", yellow = "\033[33m", plain = "\033[0m";

std::string output_of(const std::string& process) {
    std::error_code error;
    return std::filesystem::read_symlink("/proc/" + process + "/fd/1", error).string(); // empty when it cannot be seen
}

std::string parent_of(const std::string& process) {
    std::ifstream file("/proc/" + process + "/stat"); // number (name) state parent …; the name may hold anything
    std::string text;
    std::getline(file, text, '\0');
    std::istringstream rest(text.substr(std::min(text.rfind(')') + 1, text.size())));
    std::string state, parent;
    rest >> state >> parent;
    return parent;
}

// mpirun gives each rank a terminal of its own, whatever its own output is, and copies what arrives there. What a
// person sees is the output of the first process above that writes elsewhere: mpirun itself, or its daemon on another
// host.
bool mpirun_is_on_terminal() {
    const std::string own = output_of("self");
    if (own.empty()) return false; // no /proc: nobody is known to watch
    std::string process = std::to_string(getppid());
    while (output_of(process) == own)
        process = parent_of(process);
    const std::string output = output_of(process);
    return output.starts_with("/dev/pts/") || output.starts_with("/dev/tty");
}

bool console_is_terminal() {
    const char* terminal = std::getenv("TERM");
    if (isatty(STDOUT_FILENO) != 1 || terminal == nullptr || std::string_view(terminal) == "dumb") return false;
    return std::getenv("OMPI_COMM_WORLD_RANK") == nullptr || mpirun_is_on_terminal();
}

} // namespace

bool Log::wants_color(const Config& config) {
    const std::string choice = config.get(metrics_color);
    if (choice == "always") return true;
    if (choice == "never") return false;
    if (choice != "auto")
        config.refuse(metrics_color.name, no_such_name("choice", choice, {"always", "auto", "never"}));
    const char* no_color = std::getenv("NO_COLOR"); // https://no-color.org: set and not empty
    return console_is_terminal() && (no_color == nullptr || *no_color == '\0');
}

namespace {

std::shared_ptr<spdlog::logger> open_file(const std::filesystem::path& run_folder, int rank) {
    const std::filesystem::path path = run_folder / "logs" / fmt::format("rank-{:04}.log", rank);
    try {
        auto logger = std::make_shared<spdlog::logger>(
            "file", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string(), false));
        logger->set_pattern("[%Y-%m-%d %H:%M:%S.%e] [%l] %v");
        logger->flush_on(spdlog::level::info);
        return logger;
    } catch (const spdlog::spdlog_ex& error) {
        throw SystemError(fmt::format("cannot open the log {}: {}", path.string(), error.what()));
    }
}

} // namespace

struct Log::Sinks {
    std::shared_ptr<spdlog::logger> file;
    bool console = false; // this rank speaks there
    bool terminal = false;
    bool color = false;
    bool progress_shown = false;
    std::string warnings;
    bool file_failed = false;

    // Nor because there is no room for what it says. What it cannot write is lost; it is tried again with each line.
    void file_fails(const std::string& why) {
        if (std::exchange(file_failed, true)) return;
        const std::string text = fmt::format("the log cannot be written to, the run goes on: {}", why);
        warnings += text + '\n'; // rank 0 tells those of others
        if (console) print_labelled("warning", yellow, text);
    }

    void print(std::string_view text) {
        std::string line(progress_shown ? erase_line : "");
        progress_shown = false;
        line += text;
        line += '\n';
        write(line);
    }

    // A run does not end because nobody listens any more: the file goes on.
    void write(std::string_view text) {
        std::fwrite(text.data(), 1, text.size(), stdout);
        if (std::fflush(stdout) == 0 || errno == EAGAIN) return;
        console = terminal = false;
        file->warn("the console cannot be written to: {}; the log goes on here", std::strerror(errno));
        ::__fpurge(stdout); // nor is it tried again when the program ends
        std::clearerr(stdout);
    }

    void print_labelled(std::string_view label, std::string_view paint, std::string_view text) {
        print(color ? fmt::format("{}{}:{} {}", paint, label, plain, text) : fmt::format("{}: {}", label, text));
    }
};

Log::Log(const Config& config, const std::filesystem::path& run_folder, int rank) : sinks_(std::make_unique<Sinks>()) {
    const bool color = wants_color(config);
    sinks_->file = open_file(run_folder, rank);
    sinks_->file->set_error_handler([sinks = sinks_.get()](const std::string& why) { sinks->file_fails(why); });
    sinks_->console = rank == 0;
    sinks_->terminal = sinks_->console && console_is_terminal();
    sinks_->color = sinks_->console && color;
}
Log::Log(Log&&) noexcept = default;
Log& Log::operator=(Log&&) noexcept = default;
Log::~Log() {
    if (sinks_ && sinks_->console && sinks_->progress_shown) sinks_->print("");
}

void Log::info(std::string_view text) {
    sinks_->file->info(text);
    if (sinks_->console) sinks_->print(text);
}

void Log::warning(std::string_view text) {
    sinks_->file->warn(text);
    sinks_->warnings += fmt::format("{}\n", text);
    if (sinks_->console) sinks_->print_labelled("warning", yellow, text);
}

void Log::error(std::string_view text) {
    sinks_->file->error(text);
    if (sinks_->console) sinks_->print_labelled("error", red, text);
}

void Log::progress(std::string_view text) {
    if (!sinks_->terminal) return;
    const std::string line = fmt::format("{}{}", erase_line, text);
    sinks_->progress_shown = true;
    sinks_->write(line);
}

bool Log::on_terminal() const { return sinks_->terminal; }
bool Log::in_color() const { return sinks_->color; }

std::string Log::take_warnings() { return std::exchange(sinks_->warnings, {}); }

void Log::print_gathered(const std::vector<std::string>& by_rank) {
    std::vector<std::string> order; // as first said
    std::map<std::string, std::vector<std::size_t>> said_by;
    for (std::size_t rank = 0; rank < by_rank.size(); ++rank)
        for (std::size_t begin = 0, end = 0; begin < by_rank[rank].size(); begin = end + 1) {
            end = std::min(by_rank[rank].find('\n', begin), by_rank[rank].size());
            const std::string text = by_rank[rank].substr(begin, end - begin);
            std::vector<std::size_t>& ranks = said_by[text];
            if (ranks.empty()) order.push_back(text);
            if (ranks.empty() || ranks.back() != rank) ranks.push_back(rank);
        }
    for (const std::string& text : order) {
        const std::vector<std::size_t>& ranks = said_by[text];
        if (ranks == std::vector<std::size_t>{0}) continue;
        const std::size_t more = ranks.size() - 1;
        const std::string rest = more == 0 ? "" : fmt::format(" and {} more rank{}", more, more == 1 ? "" : "s");
        const std::string line = fmt::format("{} (rank {}{})", text, ranks.front(), rest);
        sinks_->file->warn(line);
        if (sinks_->console) sinks_->print_labelled("warning", yellow, line);
    }
}

} // namespace tessera
