// SPDX-License-Identifier: Apache-2.0
// Facts of a process and its host, from the system; and as JSON.
#include "launcher/rank_facts.hpp"

#include "launcher/library_versions.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sched.h>
#include <sstream>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

namespace tessera {
namespace {

using Json = nlohmann::json;

// The value of the first line that opens so, as /proc/cpuinfo and /proc/meminfo have them.
std::string line_of(const char* path, const std::string& opening) {
    std::ifstream file(path);
    std::string line;
    while (std::getline(file, line)) {
        if (!line.starts_with(opening)) continue;
        const std::size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
        return begin == std::string::npos ? "" : line.substr(begin);
    }
    return "";
}

std::int64_t limit(int resource) {
    rlimit found{};
    if (::getrlimit(static_cast<__rlimit_resource>(resource), &found) != 0 || found.rlim_cur == RLIM_INFINITY)
        return -1;
    return static_cast<std::int64_t>(found.rlim_cur);
}

std::int64_t free_in(const char* folder) {
    struct statvfs found {};
    if (::statvfs(folder, &found) != 0) return -1;
    return static_cast<std::int64_t>(found.f_bavail * found.f_frsize);
}

std::string widest_vectors() {
    const std::string flags = ' ' + line_of("/proc/cpuinfo", "flags") + line_of("/proc/cpuinfo", "Features") + ' ';
    for (const char* set : {"amx_bf16", "avx512_bf16", "avx512f", "avx2", "avx", "sse4_2", "sve", "asimd"})
        if (flags.find(fmt::format(" {} ", set)) != std::string::npos) return set;
    return "unknown";
}

std::vector<int> allowed_cpus() {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    std::vector<int> cpus;
    if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return cpus;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
        if (CPU_ISSET(cpu, &allowed)) cpus.push_back(cpu);
    return cpus;
}

} // namespace

RankFacts facts_of_this_process() {
    RankFacts facts;
    std::array<char, 256> name{};
    if (::gethostname(name.data(), name.size() - 1) == 0) facts.host = name.data();
    utsname system{};
    if (::uname(&system) == 0) facts.kernel = fmt::format("{} {}", system.sysname, system.release);
    facts.versions = library_versions();
    facts.versions["tessera"] = TESSERA_VERSION;
    facts.processor = line_of("/proc/cpuinfo", "model name");
    facts.instructions = widest_vectors();
    facts.cpus = allowed_cpus();
    facts.host_cpus = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
    std::error_code error;
    facts.infiniband = std::filesystem::exists("/sys/class/infiniband", error) &&
                       !std::filesystem::is_empty("/sys/class/infiniband", error);
    std::istringstream(line_of("/proc/meminfo", "MemTotal")) >> facts.memory;
    facts.memory = facts.memory < 0 ? -1 : facts.memory * 1024;
    facts.shared_memory_free = free_in("/dev/shm");
    facts.locked_memory = limit(RLIMIT_MEMLOCK);
    facts.open_files = limit(RLIMIT_NOFILE);
    facts.processes = limit(RLIMIT_NPROC);
    return facts;
}

std::string text_of(const RankFacts& facts) {
    return Json{{"rank", facts.rank},
                {"host", facts.host},
                {"versions", facts.versions},
                {"kernel", facts.kernel},
                {"processor", facts.processor},
                {"instructions", facts.instructions},
                {"device", facts.device},
                {"threads", facts.threads},
                {"cpus", facts.cpus},
                {"host_cpus", facts.host_cpus},
                {"infiniband", facts.infiniband},
                {"memory", facts.memory},
                {"shared_memory_free", facts.shared_memory_free},
                {"locked_memory", facts.locked_memory},
                {"open_files", facts.open_files},
                {"processes", facts.processes},
                {"clock_ahead", facts.clock_ahead},
                {"clock_error", facts.clock_error},
                {"flops", facts.flops},
                {"memory_bandwidth", facts.memory_bandwidth},
                {"folder_problem", facts.folder_problem}}
        .dump(-1, ' ', false, Json::error_handler_t::replace); // a host may tell what is no UTF-8
}

RankFacts facts_from(const std::string& text) {
    const Json json = Json::parse(text);
    RankFacts facts;
    json.at("rank").get_to(facts.rank);
    json.at("host").get_to(facts.host);
    json.at("versions").get_to(facts.versions);
    json.at("kernel").get_to(facts.kernel);
    json.at("processor").get_to(facts.processor);
    json.at("instructions").get_to(facts.instructions);
    json.at("device").get_to(facts.device);
    json.at("threads").get_to(facts.threads);
    json.at("cpus").get_to(facts.cpus);
    json.at("host_cpus").get_to(facts.host_cpus);
    json.at("infiniband").get_to(facts.infiniband);
    json.at("memory").get_to(facts.memory);
    json.at("shared_memory_free").get_to(facts.shared_memory_free);
    json.at("locked_memory").get_to(facts.locked_memory);
    json.at("open_files").get_to(facts.open_files);
    json.at("processes").get_to(facts.processes);
    json.at("clock_ahead").get_to(facts.clock_ahead);
    json.at("clock_error").get_to(facts.clock_error);
    json.at("flops").get_to(facts.flops);
    json.at("memory_bandwidth").get_to(facts.memory_bandwidth);
    json.at("folder_problem").get_to(facts.folder_problem);
    return facts;
}

std::vector<std::string> Survey::hosts() const {
    std::vector<std::string> found;
    for (const RankFacts& rank : ranks)
        if (std::find(found.begin(), found.end(), rank.host) == found.end()) found.push_back(rank.host);
    return found;
}

} // namespace tessera
