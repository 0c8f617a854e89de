// SPDX-License-Identifier: Apache-2.0
// Two rounds of cards of one size: who is where with which interfaces; then where each listens.
#include "core/watch/watch_roster.hpp"

#include "core/watch/process_state.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <unistd.h>

namespace tessera {
namespace {

constexpr std::size_t text_bytes = 256, most_interfaces = 8, ip_bytes = 16;

struct Card {
    char host[text_bytes];
    char interfaces[most_interfaces][ip_bytes];
    char ip[ip_bytes];
    std::int64_t pid, started, first_on_host, on_host, port;
};

void copy(std::string_view text, char* to, std::size_t bytes) {
    const std::size_t kept = std::min(text.size(), bytes - 1);
    std::memcpy(to, text.data(), kept);
    to[kept] = '\0';
}

std::vector<Card> everybodys(const ProcessGroup& group, const Card& own) {
    std::vector<Card> cards(static_cast<std::size_t>(group.size()));
    Card sent = own;
    std::vector<Message> sends, receives;
    if (group.rank() != 0) sends.push_back({&sent, sizeof sent, 0});
    for (int rank = 1; group.rank() == 0 && rank < group.size(); ++rank)
        receives.push_back({&cards[static_cast<std::size_t>(rank)], sizeof sent, rank});
    cards[0] = own;
    group.exchange(sends, receives);
    group.broadcast(cards.data(), static_cast<std::int64_t>(cards.size() * sizeof(Card)), 0);
    return cards;
}

// Addresses in one network of 24 bits: what hosts that see each other directly mostly have. Preferred, because a way
// by a default route may lead nowhere.
bool is_near(const std::string& a, const std::string& b) {
    return a.substr(0, a.rfind('.')) == b.substr(0, b.rfind('.'));
}

// Of this rank's host, towards the first other one that it has a way to.
std::string own_ip(const std::vector<Card>& cards, const Card& own) {
    std::string any, alike;
    for (const Card& card : cards) {
        if (card.first_on_host == own.first_on_host) continue;
        for (const auto& interface : card.interfaces) {
            const std::string found = interface[0] == '\0' ? "" : address_towards(interface);
            if (found.empty() || found.starts_with("127.")) continue;
            if (found == interface) { // both have it: a bridge of containers, or two names of one machine
                alike = found;
                continue;
            }
            if (is_near(found, interface)) return found;
            if (any.empty()) any = found;
        }
    }
    return any.empty() ? alike : any;
}

} // namespace

WatchRoster meet(const World& world, const ProcessGroup& neighbours) {
    WatchRoster roster;
    const ProcessGroup& group = world.group();
    if (world.rank() == 0) roster.token = draw_token();
    group.broadcast(roster.token.data(), static_cast<std::int64_t>(roster.token.size()), 0);

    Card own{};
    copy(world.host(), own.host, sizeof own.host);
    own.pid = ::getpid();
    own.started = static_cast<std::int64_t>(process_state(own.pid).started);
    own.first_on_host = world.rank();
    neighbours.broadcast(&own.first_on_host, sizeof own.first_on_host, 0);
    own.on_host = neighbours.rank();
    const std::vector<std::string> interfaces = interface_addresses();
    for (std::size_t i = 0; i < std::min(interfaces.size(), most_interfaces); ++i)
        copy(interfaces[i], own.interfaces[i], ip_bytes);
    const std::vector<Card> cards = everybodys(group, own);

    const bool one_host = std::ranges::all_of(cards, [&](const Card& card) { return card.first_on_host == 0; });
    std::string failure;
    try {
        const std::string ip = one_host ? "127.0.0.1" : own_ip(cards, own);
        if (ip.empty()) throw SystemError("no interface with an IPv4 address leads to another host");
        roster.listener = std::make_unique<WatchListener>(ip);
        copy(roster.listener->address().ip, own.ip, sizeof own.ip);
        own.port = roster.listener->address().port;
    } catch (const SystemError& error) {
        failure = error.what();
    }
    if (!group.all(failure.empty()))
        throw SystemError("ranks cannot watch each other: " + (failure.empty() ? "another rank says why" : failure));
    for (const Card& card : everybodys(group, own))
        roster.ranks.push_back({{static_cast<int>(roster.ranks.size()), card.host, card.pid},
                                static_cast<std::uint64_t>(card.started),
                                static_cast<int>(card.first_on_host),
                                static_cast<int>(card.on_host),
                                {card.ip, static_cast<std::uint16_t>(card.port)}});
    return roster;
}

} // namespace tessera
