// SPDX-License-Identifier: Apache-2.0
// Host lists, host files, ranks shared out over hosts, and hosts that are asked.
#include "launcher/job/hosts.hpp"

#include "kernels/error.hpp"
#include "launcher/job/remote.hpp"

#include <chrono>
#include <gtest/gtest.h>

namespace tessera {
namespace {

using namespace std::chrono_literals;
using Hosts = std::vector<HostSlots>;

template <class Function> std::string refusal(const Function& function) {
    try {
        function();
    } catch (const ConfigError& error) {
        return error.what();
    }
    return "accepted";
}

TEST(Hosts, AreReadFromTheLine) {
    EXPECT_EQ(parse_hosts("a:8,b-2.c_3:1,d"), (Hosts{{"a", 8}, {"b-2.c_3", 1}, {"d", 1}}));
    EXPECT_EQ(text_of(parse_hosts("a:8,d")), "a:8,d:1");
    const auto refused = [](const std::string& text) { return refusal([&] { parse_hosts(text); }); };
    EXPECT_EQ(refused("a:8,,b"), "--hosts: '' is no name of a host");
    EXPECT_EQ(refused("a:8,"), "--hosts: expected NAME:RANKS,…");
    EXPECT_EQ(refused(""), "--hosts: expected NAME:RANKS,…");
    EXPECT_EQ(refused("a:0"), "--hosts: slots 0: expected a whole number from 1 to 1000000");
    EXPECT_EQ(refused("a:8,a:9"), "--hosts: a stands there twice");
    EXPECT_EQ(refused("-oProxyCommand=x"), "--hosts: '-oProxyCommand=x' is no name of a host"); // no option of ssh
    EXPECT_EQ(refused("a;b"), "--hosts: 'a;b' is no name of a host");
}

TEST(Hosts, AreReadFromAFile) {
    const Hosts hosts = parse_hostfile("# the first rack\na slots=8\n\n  b:4   # half of it\nc\n", "racks");
    EXPECT_EQ(hosts, (Hosts{{"a", 8}, {"b", 4}, {"c", 1}}));
    const auto refused = [](const std::string& text) { return refusal([&] { parse_hostfile(text, "racks"); }); };
    EXPECT_EQ(refused("a\nb max_slots=4\n"), "racks:2: 'b max_slots=4': expected HOST, HOST:RANKS or HOST slots=RANKS");
    EXPECT_EQ(refused("a slots=x"), "racks:1: slots x: expected a whole number from 1 to 1000000");
    EXPECT_EQ(refused("a:2 slots=3"), "racks:1: 'a:2 slots=3': expected HOST, HOST:RANKS or HOST slots=RANKS");
    EXPECT_EQ(refused("a\n\na:2"), "racks:3: a stands there twice");
    EXPECT_EQ(refused("#\n"), "racks: names no host");
    EXPECT_EQ(refusal([] { read_hostfile("nowhere"); }), "cannot read nowhere: No such file or directory");
}

TEST(Hosts, AreFilledInTheirOrder) {
    const Hosts hosts{{"a", 3}, {"b", 2}, {"c", 4}};
    EXPECT_EQ(share_ranks(9, hosts), hosts);
    EXPECT_EQ(share_ranks(4, hosts), (Hosts{{"a", 3}, {"b", 1}}));
    EXPECT_EQ(share_ranks(3, hosts), (Hosts{{"a", 3}}));
    EXPECT_EQ(refusal([&] { share_ranks(10, hosts); }),
              "10 ranks on hosts with room for 9 (a:3,b:2,c:4): name more hosts, or more ranks of each");
}

// `sh -c CODE` stands for ssh: the host is its $0, the command its $1.
TEST(Remote, HostsAreAskedAtOnceAndNobodyIsWaitedForForEver) {
    EXPECT_TRUE(is_this_host("localhost"));
    EXPECT_FALSE(is_this_host("no-such-host"));
    const auto begin = std::chrono::steady_clock::now();
    const std::vector<Answer> answers = ask_hosts({"a", "localhost", "b"}, "no-such-shell", {"echo", "it's me"}, 30s);
    EXPECT_FALSE(answers[0].came);
    EXPECT_EQ(answers[0].text, "cannot start no-such-shell: No such file or directory");
    EXPECT_TRUE(answers[1].came);
    EXPECT_EQ(answers[1].text, "it's me\n");
    const std::vector<Answer> late = ask_hosts({"localhost", "localhost"}, "", {"sleep", "1000"}, 0s);
    EXPECT_FALSE(late[0].came || late[1].came);
    EXPECT_EQ(late[1].text, "no answer in time");
    EXPECT_FALSE(ask_hosts({"localhost"}, "", {"false"}, 30s)[0].came);
    int looked = 0; // nobody waits any more
    EXPECT_FALSE(ask_hosts({"localhost"}, "", {"sleep", "1000"}, 1000s, [&] { return ++looked > 2; })[0].came);
    EXPECT_EQ(looked, 3);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 100s);
}

} // namespace
} // namespace tessera
