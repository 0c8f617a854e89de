// SPDX-License-Identifier: Apache-2.0
// Sockets and interfaces. The listener has a thread of its own, which calls no MPI.
#include "launcher/diagnosis/routes.hpp"

#include "kernels/error.hpp"

#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <random>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace tessera {
namespace {

constexpr int most_wait = 2000, look_around = 50; // milliseconds

class Socket {
public:
    explicit Socket(int number) : number_(number) {}
    ~Socket() {
        if (number_ >= 0) ::close(number_);
    }
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;
    int number() const { return number_; }

    bool ready(short events, int milliseconds) const {
        pollfd one{number_, events, 0};
        return ::poll(&one, 1, milliseconds) == 1;
    }

private:
    int number_;
};

sockaddr_in address_of(std::uint32_t host, int port) { // both in the host's order
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(host);
    return address;
}

} // namespace

std::vector<Interface> interfaces_here() {
    ifaddrs* first = nullptr;
    if (::getifaddrs(&first) != 0) throw SystemError(fmt::format("cannot list interfaces: {}", std::strerror(errno)));
    std::vector<Interface> found;
    for (const ifaddrs* one = first; one != nullptr; one = one->ifa_next) {
        if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET || (one->ifa_flags & IFF_UP) == 0 ||
            (one->ifa_flags & IFF_LOOPBACK) != 0)
            continue;
        std::array<char, INET_ADDRSTRLEN> text{};
        const auto* address = reinterpret_cast<const sockaddr_in*>(one->ifa_addr);
        ::inet_ntop(AF_INET, &address->sin_addr, text.data(), text.size());
        found.push_back({one->ifa_name, text.data(), {}, {}});
    }
    ::freeifaddrs(first);
    return found;
}

struct Listener::State {
    Socket socket{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    std::string word = fmt::format("{:016x}", std::random_device()() * 0x100000001ull + std::random_device()());
    int port = 0;
    std::jthread answers;
};

Listener::Listener() : state_(std::make_unique<State>()) {
    sockaddr_in address = address_of(INADDR_ANY, 0);
    socklen_t size = sizeof address;
    auto* any = reinterpret_cast<sockaddr*>(&address);
    const int socket = state_->socket.number();
    if (socket < 0 || ::bind(socket, any, size) != 0 || ::listen(socket, 64) != 0 ||
        ::getsockname(socket, any, &size) != 0)
        throw SystemError(fmt::format("cannot listen for connections: {}", std::strerror(errno)));
    state_->port = ntohs(address.sin_port);
    state_->answers = std::jthread([state = state_.get()](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
            if (!state->socket.ready(POLLIN, look_around)) continue;
            const Socket one(::accept4(state->socket.number(), nullptr, nullptr, SOCK_CLOEXEC));
            if (one.number() >= 0) ::send(one.number(), state->word.data(), state->word.size(), MSG_NOSIGNAL);
        }
    });
}

Listener::~Listener() = default;
int Listener::port() const { return state_->port; }
const std::string& Listener::word() const { return state_->word; }

bool reaches(const std::string& address, int port, const std::string& word) {
    const Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in there = address_of(0, port);
    if (socket.number() < 0 || ::inet_pton(AF_INET, address.c_str(), &there.sin_addr) != 1) return false;
    const int begun = ::connect(socket.number(), reinterpret_cast<const sockaddr*>(&there), sizeof there);
    if (begun != 0 && (errno != EINPROGRESS || !socket.ready(POLLOUT, most_wait))) return false;
    std::string heard;
    std::array<char, 64> piece{};
    while (heard.size() < word.size() && socket.ready(POLLIN, most_wait)) {
        const ssize_t count = ::recv(socket.number(), piece.data(), piece.size(), 0);
        if (count <= 0) break;
        heard.append(piece.data(), static_cast<std::size_t>(count));
    }
    return heard == word;
}

} // namespace tessera
