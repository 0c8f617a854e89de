// SPDX-License-Identifier: Apache-2.0
// Facts of a process and its host, from the system; and as JSON.
#include "launcher/diagnosis/rank_facts.hpp"

#include "core/json.hpp"
#include "kernels/error.hpp"
#include "launcher/diagnosis/library_versions.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fstream>
#include <sched.h>
#include <sstream>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

namespace tessera {
namespace {

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

constexpr char end_of_item = '\x1e'; // of a list packed; in no version's text

template <class Facts, class Each> void each_field(Facts& facts, const Each& each) {
    each("rank", facts.rank);
    each("host", facts.host);
    each("versions", facts.versions);
    each("kernel", facts.kernel);
    each("processor", facts.processor);
    each("instructions", facts.instructions);
    each("device", facts.device);
    each("threads", facts.threads);
    each("cpus", facts.cpus);
    each("host_cpus", facts.host_cpus);
    each("infiniband", facts.infiniband);
    each("memory", facts.memory);
    each("shared_memory_free", facts.shared_memory_free);
    each("locked_memory", facts.locked_memory);
    each("open_files", facts.open_files);
    each("processes", facts.processes);
    each("clock_ahead", facts.clock_ahead);
    each("clock_error", facts.clock_error);
    each("flops", facts.flops);
    each("memory_bandwidth", facts.memory_bandwidth);
    each("folder_problem", facts.folder_problem);
}

using Texts = std::map<std::string, std::string>;

template <class T> std::string json_value(const T& value) { return fmt::format("{}", value); }
std::string json_value(const std::string& value) { return json_string(value); }
std::string json_value(const std::vector<int>& value) { return fmt::format("[{}]", fmt::join(value, ", ")); }
std::string json_value(const Texts& value) {
    std::string text;
    for (const auto& [name, item] : value)
        text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", json_string(name), json_string(item));
    return '{' + text + '}';
}

template <class T> std::string pack(const T& value) { return fmt::format("{}", value); } // to the same bits
std::string pack(const std::vector<int>& value) { return fmt::format("{}", fmt::join(value, " ")); }
std::string pack(const Texts& value) {
    std::string text;
    for (const auto& [name, item] : value)
        text += name + end_of_item + item + end_of_item;
    return text;
}

void unpack(const std::string& text, std::string& value) { value = text; }
void unpack(const std::string& text, bool& value) { value = text == "true"; }
void unpack(const std::string& text, int& value) { value = std::stoi(text); }
void unpack(const std::string& text, std::int64_t& value) { value = std::stoll(text); }
void unpack(const std::string& text, double& value) { value = std::stod(text); }
void unpack(const std::string& text, std::vector<int>& value) {
    std::istringstream words(text);
    for (int one = 0; words >> one;)
        value.push_back(one);
}
void unpack(const std::string& text, Texts& value) {
    std::istringstream items(text);
    for (std::string name, item; std::getline(items, name, end_of_item) && std::getline(items, item, end_of_item);)
        value[name] = item;
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

std::string json_of(const RankFacts& facts) {
    std::string text;
    each_field(facts, [&](const char* name, const auto& value) {
        text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", json_string(name), json_value(value));
    });
    return '{' + text + '}';
}

// Each value behind the number of its bytes.
std::string text_of(const RankFacts& facts) {
    std::string text;
    each_field(facts, [&](const char*, const auto& value) {
        const std::string packed = pack(value);
        text += fmt::format("{}:{}", packed.size(), packed);
    });
    return text;
}

RankFacts facts_from(const std::string& text) {
    RankFacts facts;
    std::size_t at = 0;
    each_field(facts, [&](const char*, auto& value) {
        const std::size_t colon = text.find(':', at);
        if (colon == std::string::npos) throw InternalError("the facts of a rank end early");
        const std::size_t bytes = std::stoull(text.substr(at, colon - at));
        unpack(text.substr(colon + 1, bytes), value);
        at = colon + 1 + bytes;
    });
    return facts;
}

std::vector<std::string> Survey::hosts() const {
    std::vector<std::string> found;
    for (const RankFacts& rank : ranks)
        if (std::find(found.begin(), found.end(), rank.host) == found.end()) found.push_back(rank.host);
    return found;
}

} // namespace tessera
