// SPDX-License-Identifier: Apache-2.0
// `tessera rank`: what `tessera launch` has started in each place of a job. Takes its cores, opens its log, and becomes
// the command that follows.
#include "kernels/error.hpp"
#include "launcher/commands.hpp"
#include "launcher/job/binding.hpp"
#include "launcher/job/clean.hpp"
#include "launcher/job/job.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <unistd.h>

namespace tessera {
namespace {

// The first that is set, of those that Open MPI, PMIx and Slurm set for a rank.
std::int64_t number_of_rank(std::initializer_list<const char*> names, std::int64_t most, std::int64_t fallback) {
    for (const char* name : names)
        if (const char* text = std::getenv(name)) return parse_integer(name, text, 0, most);
    return fallback;
}

void take_cores(std::int64_t threads) {
    const std::int64_t ranks = number_of_rank({"OMPI_COMM_WORLD_LOCAL_SIZE"}, most_ranks, 1);
    const std::int64_t rank = number_of_rank({"OMPI_COMM_WORLD_LOCAL_RANK"}, most_ranks, 0);
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    const HostShape shape = shape_of_this_host(visible == nullptr ? "" : visible);
    if (rank >= ranks) throw SystemError(fmt::format("local rank {} of {} has no place", rank, ranks));
    const RankBinding place = place_ranks(ranks, threads, shape)[static_cast<std::size_t>(rank)];
    if (!place.cores.empty()) bind_to(place.cores); // this host may have fewer cores than the launcher's
}

// What this rank, and any library in it, writes to standard output and error goes to the file of its log, which has the
// lines of the log as well. Rank 0 speaks on the console.
void take_output(const std::string& folder) {
    const std::int64_t rank = number_of_rank({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"}, most_ranks, 0);
    if (rank == 0) return;
    const std::filesystem::path logs = std::filesystem::path(folder) / "logs";
    std::error_code error;
    std::filesystem::create_directories(logs, error);
    if (error) throw SystemError(fmt::format("cannot make {}: {}", logs.string(), error.message()));
    const std::string path = logs / fmt::format("rank-{:04}.log", rank);
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0 || ::dup2(file, STDOUT_FILENO) < 0 || ::dup2(file, STDERR_FILENO) < 0)
        throw SystemError(fmt::format("cannot open the log {}: {}", path, std::strerror(errno)));
    ::close(file);
}

// OpenMP has taken the cores of OMP_PLACES before main began: where a person sets it, it must look again.
[[noreturn]] void begin_again(const std::vector<std::string>& words) {
    std::vector<char*> pointers{const_cast<char*>("tessera")};
    for (const std::string& word : words)
        pointers.push_back(const_cast<char*>(word.c_str()));
    pointers.push_back(nullptr);
    ::execv("/proc/self/exe", pointers.data());
    throw SystemError(fmt::format("cannot start again on fewer cores: {}", std::strerror(errno)));
}

int run_rank(const Arguments& arguments, Process& process) {
    if (const std::optional<std::string> id = arguments.text("job")) {
        if (!is_job_id(*id)) throw ConfigError(fmt::format("--job {}: is no id of a job", *id));
        std::error_code ignored; // Open MPI itself says what it cannot write
        std::filesystem::create_directories("/dev/shm/" + *id, ignored);
    }
    if (const std::optional<std::string> folder = arguments.text("output")) take_output(*folder);
    const std::vector<std::string>& words = arguments.words();
    if (const std::optional<std::int64_t> threads = arguments.integer("bind", 1, most_threads)) {
        take_cores(*threads);
        if (std::getenv("OMP_PLACES") != nullptr || std::getenv("OMP_PROC_BIND") != nullptr) begin_again(words);
    }
    for (const Command& command : commands())
        if (command.name == words[0])
            return command.run(Arguments(command.usage, {words.begin() + 1, words.end()}), process);
    throw ConfigError(fmt::format("no command named '{}'", words[0]));
}

} // namespace

Command rank_command() {
    return {"rank",
            "be a rank of a job, on cores of its own (launch starts them)",
            {"rank [OPTION…] -- COMMAND [ARGUMENT…]",
             R"(What `tessera launch` has mpirun or srun start in each place: takes cores of this
host, sends its output to its log, then does what `tessera COMMAND` does. Rank 0
keeps the console. Which rank it is, and how many share the host, it finds in the
environment that mpirun, PMIx or Slurm give it.

Example
  mpirun -n 4 --bind-to none tessera rank --bind 2 -- train configs/quickstart.toml
)",
             {{"bind", "T", "so many cores of its own, of the NUMA node next to its GPU (default: all)"},
              {"output", "FOLDER", "all ranks but rank 0 speak in FOLDER/logs/rank-NNNN.log"},
              {"job", "ID", "the job it belongs to, as processes and folders in /dev/shm are marked"}},
             1,
             100'000},
            run_rank};
}

} // namespace tessera
