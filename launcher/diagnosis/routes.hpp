// SPDX-License-Identifier: Apache-2.0
// Which interfaces of a host others reach: found out by connecting to them.
#pragma once

#include "launcher/diagnosis/rank_facts.hpp"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace tessera {

// Of this host: those that are up and have an IPv4 address, the loopback left out.
std::vector<Interface> interfaces_here();

// Answers whoever connects, on any interface, with a word of its own, so that no other host of the same address is
// taken for this one. From its making to its end. Throws SystemError when it cannot listen.
class Listener {
public:
    Listener();
    ~Listener();
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

    int port() const;
    const std::string& word() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

// Whether the listener answers there within two seconds.
bool reaches(const std::string& address, int port, const std::string& word);

} // namespace tessera
