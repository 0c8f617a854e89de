// SPDX-License-Identifier: Apache-2.0
// Finds the subcommand. The only catch, and the only place that chooses an exit code for a failure
// (core/exit_codes.hpp).
#include "launcher/program.hpp"

#include "core/data/data_error.hpp"
#include "core/exit_codes.hpp"
#include "core/run/diverged_error.hpp"
#include "core/visible.hpp"
#include "core/watch/job_folder.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "launcher/commands.hpp"
#include "parallel/communication/lost_error.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <new>
#include <system_error>
#include <thread>
#include <unistd.h>

namespace tessera {
namespace {

// Ranks mostly run into the same wrong config, or data. Rank 0 says so at once and ends the job; the others wait this
// long and speak only if they are still there, because it was their error alone.
constexpr std::chrono::seconds others_wait{3};

std::string overview(const std::vector<Command>& all) {
    std::string text = "usage: tessera COMMAND [ARGUMENT…]\n\nTrains neural networks over many ranks.\n\nCommands\n";
    for (const Command& command : all)
        text += fmt::format("  {:<10} {}\n", command.name, command.summary);
    return text + R"(
Exit codes: 0 done, 1 failure, 2 a command line or config to mend, 3 data that cannot
be read, 4 a rank or a link was lost, 5 training diverged, 75 stopped on request with a
checkpoint (run it again), 130 interrupted.

`tessera COMMAND --help` explains a command, `tessera --version` says which build this is.
)";
}

int run(const std::vector<std::string>& words, Process& process) {
    const std::vector<Command> all = commands();
    if (words.empty()) throw ConfigError("no command given\n" + overview(all));
    if (words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
        fmt::print("{}", overview(all));
        return 0;
    }
    if (words[0] == "--version") {
        fmt::print("tessera {}\n", TESSERA_VERSION);
        return 0;
    }
    std::vector<std::string_view> names;
    for (const Command& command : all) {
        names.push_back(command.name);
        if (command.name != words[0]) continue;
        const Arguments arguments(command.usage, {words.begin() + 1, words.end()});
        if (!arguments.wants_help()) return command.run(arguments, process);
        fmt::print("{}", help_text(command.usage));
        return 0;
    }
    throw ConfigError(no_such_name("command", words[0], names));
}

// The rank of this process as far as it is known: -1 when it was started alone.
int rank_of(const Process& process) {
    if (process.world != nullptr) return process.rank; // MPI_Init sets the variables below when it is alone, too
    for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK"})
        if (const char* rank = std::getenv(name)) return std::atoi(rank);
    return -1;
}

// Where the run has a folder: a config that is refused leaves none behind.
void note(const Process& process, int code, const std::string& message) {
    std::error_code ignored;
    if (process.run_folder.empty() || !std::filesystem::is_directory(process.run_folder, ignored)) return;
    char host[256] = "";
    ::gethostname(host, sizeof host - 1);
    note_failure(process.run_folder,
                 {.kind = std::string(failure_kind(code)),
                  .code = code,
                  .place = {std::max(rank_of(process), 0), host, ::getpid()},
                  .step = process.step ? process.step() : -1,
                  .message = visible(message)},
                 process.job_start);
}

int fail(const Process& process, int code, const std::string& message) {
    const int rank = rank_of(process);
    if ((code == exit_code::usage || code == exit_code::data) && rank > 0) std::this_thread::sleep_for(others_wait);
    note(process, code, message);
    std::fflush(stdout);
    const std::string line = rank < 0 ? fmt::format("tessera: {}\n", visible(message))
                                      : fmt::format("tessera: rank {}: {}\n", rank, visible(message));
    std::fwrite(line.data(), 1, line.size(), stderr);
    std::fflush(stderr);
    if (process.abort) process.abort(code);
    return code;
}

// A file opened later must not become the standard output or error of one who was started without. What is written
// there fails, as it would have.
void fill_standard_descriptors() {
    for (int file = ::open("/dev/null", O_RDONLY); file >= 0; file = ::open("/dev/null", O_RDONLY))
        if (file > STDERR_FILENO) {
            ::close(file);
            return;
        }
}

} // namespace

int run_program(int argc, char** argv) {
    fill_standard_descriptors();
    Process process;
    try {
        const int code = run({argv + 1, argv + argc}, process);
        if (std::fflush(stdout) != 0) throw SystemError("cannot write to the standard output");
        return code;
    } catch (const DataError& error) {
        return fail(process, exit_code::data, error.what());
    } catch (const ConfigError& error) {
        return fail(process, exit_code::usage, error.what());
    } catch (const LostError& error) {
        return fail(process, exit_code::lost, error.what());
    } catch (const DivergedError& error) {
        return fail(process, exit_code::diverged, error.what());
    } catch (const InternalError& error) {
        return fail(process, exit_code::failure, fmt::format("internal error: {}", error.what()));
    } catch (const std::bad_alloc&) {
        return fail(process, exit_code::failure, "out of memory");
    } catch (const std::exception& error) { // fmt's own words do not say which file
        return fail(process, exit_code::failure,
                    std::ferror(stdout) != 0 ? "cannot write to the standard output" : error.what());
    }
}

} // namespace tessera
