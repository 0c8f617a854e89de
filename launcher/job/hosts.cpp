// SPDX-License-Identifier: Apache-2.0
// Host lists and host files.
#include "launcher/job/hosts.hpp"

#include "kernels/error.hpp"
#include "launcher/command_line.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <sstream>

namespace tessera {
namespace {

constexpr std::int64_t most_slots = 1'000'000;

// A name goes into command lines of a remote shell and of mpirun: nothing that these could read otherwise.
void check_name(const std::string& name, const std::string& where) {
    const char* const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    if (name.empty() || name.front() == '-' || name.find_first_not_of(letters) != std::string::npos)
        throw ConfigError(fmt::format("{}: '{}' is no name of a host", where, name));
}

// "a:8" or "a"
HostSlots parse_host(const std::string& word, const std::string& where) {
    const std::size_t colon = word.find(':');
    HostSlots host{word.substr(0, colon), 1};
    check_name(host.name, where);
    if (colon != std::string::npos)
        host.slots = parse_integer(where + ": slots", word.substr(colon + 1), 1, most_slots);
    return host;
}

void add(HostSlots host, const std::string& where, std::vector<HostSlots>& hosts) {
    for (const HostSlots& other : hosts)
        if (other.name == host.name) throw ConfigError(fmt::format("{}: {} stands there twice", where, host.name));
    hosts.push_back(std::move(host));
}

} // namespace

std::vector<HostSlots> parse_hosts(const std::string& text) {
    std::vector<HostSlots> hosts;
    std::istringstream words(text);
    for (std::string word; std::getline(words, word, ',');)
        add(parse_host(word, "--hosts"), "--hosts", hosts);
    if (hosts.empty() || text.back() == ',') throw ConfigError("--hosts: expected NAME:RANKS,…");
    return hosts;
}

std::vector<HostSlots> parse_hostfile(const std::string& text, const std::string& path) {
    std::vector<HostSlots> hosts;
    std::istringstream lines(text);
    std::string line;
    for (int number = 1; std::getline(lines, line); ++number) {
        const std::string where = fmt::format("{}:{}", path, number);
        std::istringstream words(line.substr(0, line.find('#')));
        std::string first, second, rest;
        words >> first >> second >> rest;
        if (first.empty()) continue;
        HostSlots host = parse_host(first, where);
        if (!second.empty()) {
            if (!second.starts_with("slots=") || !rest.empty() || first.find(':') != std::string::npos)
                throw ConfigError(fmt::format("{}: '{}': expected HOST, HOST:RANKS or HOST slots=RANKS", where, line));
            host.slots = parse_integer(where + ": slots", second.substr(6), 1, most_slots);
        }
        add(std::move(host), where, hosts);
    }
    if (hosts.empty()) throw ConfigError(fmt::format("{}: names no host", path));
    return hosts;
}

std::vector<HostSlots> read_hostfile(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    if (file) text << file.rdbuf();
    if (!file || file.bad()) throw ConfigError(fmt::format("cannot read {}: {}", path, std::strerror(errno)));
    return parse_hostfile(text.str(), path);
}

std::int64_t slots_of(const std::vector<HostSlots>& hosts) {
    std::int64_t slots = 0;
    for (const HostSlots& host : hosts)
        slots += host.slots;
    return slots;
}

std::vector<HostSlots> share_ranks(std::int64_t ranks, const std::vector<HostSlots>& hosts) {
    if (ranks > slots_of(hosts))
        throw ConfigError(fmt::format("{} on hosts with room for {} ({}): name more hosts, or more ranks of each",
                                      counted(ranks, "rank"), slots_of(hosts), text_of(hosts)));
    std::vector<HostSlots> result;
    for (const HostSlots& host : hosts) {
        if (ranks == 0) break;
        result.push_back({host.name, std::min(ranks, host.slots)});
        ranks -= result.back().slots;
    }
    return result;
}

std::string text_of(const std::vector<HostSlots>& hosts) {
    std::string text;
    for (const HostSlots& host : hosts)
        text += fmt::format("{}{}:{}", text.empty() ? "" : ",", host.name, host.slots);
    return text;
}

} // namespace tessera
