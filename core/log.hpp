// SPDX-License-Identifier: Apache-2.0
// What a run says while it runs: rank 0 on the console, every rank in a file of its own. Knows no metrics.
#pragma once

#include "core/config.hpp"

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

inline constexpr Key<std::string> metrics_color{
    "metrics.color", "auto", "colours on the console: auto (a terminal without NO_COLOR), always or never"};

// Move-only. The console is stdout, of rank 0 only; the file is FOLDER/logs/rank-0000.log, appended to, and written
// through line by line. One that cannot be written to any more ends no run: the other one says so.
class Log {
public:
    // Whether metrics.color lets this process colour the console. Throws ConfigError for a wrong one.
    static bool wants_color(const Config& config);

    // Makes the folder. Throws ConfigError as wants_color does, SystemError when the file cannot be opened.
    Log(const Config& config, const std::filesystem::path& run_folder, int rank);
    Log(Log&&) noexcept;
    Log& operator=(Log&&) noexcept;
    ~Log();

    void info(std::string_view text);
    void warning(std::string_view text); // also kept for take_warnings()
    void error(std::string_view text);

    // One line that the next one replaces, on a terminal only; nothing elsewhere.
    void progress(std::string_view text);
    bool on_terminal() const;
    bool in_color() const; // whether the console may be sent colour codes

    // This rank's warnings since the last call, a line each: gather them on rank 0 now and then …
    std::string take_warnings();
    // … and hand them in there, by rank: each distinct one that another rank has is printed once, with who had it:
    // "input file ended early (rank 2 and 3 more ranks)". Rank 0's own have been printed when they were said.
    void print_gathered(const std::vector<std::string>& by_rank);

private:
    struct Sinks;

    std::unique_ptr<Sinks> sinks_;
};

} // namespace tessera
