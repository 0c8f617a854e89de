// SPDX-License-Identifier: Apache-2.0
// Sockets of the watchdogs. Whatever a stranger sends costs a bounded buffer and ends with a closed connection.
#include "core/watch/watch_socket.hpp"

#include "core/watch/stall_report.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

namespace tessera {
namespace {

constexpr std::size_t header_bytes = 4;
constexpr int most_reads = 8;                               // at a time: others wait
constexpr std::size_t most_unsent = 8 * most_message_bytes; // to who does not read: it is closed

sockaddr_in socket_address(const std::string& ip, std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    ::inet_pton(AF_INET, ip.c_str(), &address.sin_addr);
    return address;
}

std::string text_of(const in_addr& address) {
    char text[INET_ADDRSTRLEN] = "";
    ::inet_ntop(AF_INET, &address, text, sizeof text);
    return text;
}

int make_socket(int kind) {
    const int made = ::socket(AF_INET, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (made < 0) throw SystemError(fmt::format("cannot make a socket: {}", std::strerror(errno)));
    return made;
}

void say_at_once(int descriptor) {
    const int yes = 1;
    ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

} // namespace

WatchToken draw_token() {
    WatchToken token{};
    if (::getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size()))
        throw SystemError(fmt::format("cannot draw random bytes: {}", std::strerror(errno)));
    return token;
}

bool is_equal(const WatchToken& a, const WatchToken& b) {
    volatile std::uint8_t difference = 0;
    for (std::size_t i = 0; i < a.size(); ++i)
        difference = static_cast<std::uint8_t>(difference | (a[i] ^ b[i]));
    return difference == 0;
}

void MessageParser::add(std::string_view bytes) {
    if (!broken_) bytes_ += bytes;
}

std::optional<WatchMessage> MessageParser::next() {
    std::uint32_t length = 0;
    if (broken_ || bytes_.size() < header_bytes) return std::nullopt;
    std::memcpy(&length, bytes_.data(), header_bytes);
    if (length == 0 || length > most_message_bytes) {
        broken_ = true;
        bytes_.clear();
        return std::nullopt;
    }
    if (bytes_.size() < header_bytes + length) return std::nullopt;
    WatchMessage message{bytes_[header_bytes], bytes_.substr(header_bytes + 1, length - 1)};
    bytes_.erase(0, header_bytes + length);
    return message;
}

std::string framed(char kind, std::string_view body) {
    if (body.size() + 1 > most_message_bytes)
        throw InternalError(fmt::format("a message of {} bytes to a watchdog", body.size()));
    const auto length = static_cast<std::uint32_t>(body.size() + 1);
    std::string bytes(reinterpret_cast<const char*>(&length), header_bytes);
    bytes += kind;
    bytes += body;
    return bytes;
}

std::vector<std::string> interface_addresses() {
    std::vector<std::string> found;
    ifaddrs* list = nullptr;
    if (::getifaddrs(&list) != 0) return found;
    for (const ifaddrs* one = list; one != nullptr; one = one->ifa_next) {
        const bool usable = (one->ifa_flags & IFF_UP) != 0 && (one->ifa_flags & IFF_LOOPBACK) == 0;
        if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET || !usable) continue;
        found.push_back(text_of(reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr));
    }
    ::freeifaddrs(list);
    return found;
}

// A datagram socket that is connected has sent nothing, but knows its way.
std::string address_towards(const std::string& remote) {
    const int descriptor = make_socket(SOCK_DGRAM);
    const sockaddr_in to = socket_address(remote, 9);
    sockaddr_in own{};
    socklen_t size = sizeof own;
    std::string found;
    if (::connect(descriptor, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0 &&
        ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&own), &size) == 0)
        found = text_of(own.sin_addr);
    ::close(descriptor);
    return found;
}

WatchConnection::WatchConnection(int accepted) : descriptor_(accepted), status_(Status::open) {
    say_at_once(descriptor_);
}

WatchConnection::WatchConnection(const WatchAddress& to)
    : descriptor_(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)), status_(Status::connecting) {
    if (descriptor_ < 0) { // too many at the moment: as one that was lost, to be tried again
        status_ = Status::closed;
        return;
    }
    say_at_once(descriptor_);
    const sockaddr_in address = socket_address(to.ip, to.port);
    if (::connect(descriptor_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
        status_ = Status::open;
    else if (errno != EINPROGRESS) {
        const bool refused = errno == ECONNREFUSED;
        close();
        if (refused) status_ = Status::refused;
    }
}

WatchConnection::WatchConnection(WatchConnection&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), status_(std::exchange(other.status_, Status::closed)),
      in_(std::move(other.in_)), out_(std::move(other.out_)) {}

WatchConnection& WatchConnection::operator=(WatchConnection&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    std::swap(status_, other.status_);
    std::swap(in_, other.in_);
    std::swap(out_, other.out_);
    return *this;
}

WatchConnection::~WatchConnection() { close(); }

void WatchConnection::close() {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = -1;
    status_ = Status::closed;
}

// What is closed with something unread is cut off, and with it what the other end has not read yet.
void WatchConnection::finish() {
    if (status_ == Status::open) {
        flush();
        ::shutdown(descriptor_, SHUT_WR);
        const timeval moment{0, 300'000};
        ::fcntl(descriptor_, F_SETFL, ::fcntl(descriptor_, F_GETFL) & ~O_NONBLOCK);
        ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &moment, sizeof moment);
        char bytes[1024];
        while (::recv(descriptor_, bytes, sizeof bytes, 0) > 0) {
        }
    }
    close();
}

void WatchConnection::send(char kind, std::string_view body) {
    if (status_ != Status::open && status_ != Status::connecting) return;
    out_ += framed(kind, body);
    if (status_ == Status::open) flush();
    if (out_.size() > most_unsent) close();
}

void WatchConnection::flush() {
    while (!out_.empty()) {
        const ssize_t sent = ::send(descriptor_, out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) close();
            return;
        }
        out_.erase(0, static_cast<std::size_t>(sent));
    }
}

std::vector<WatchMessage> WatchConnection::proceed() {
    std::vector<WatchMessage> messages;
    if (status_ == Status::connecting) {
        int error = 0;
        socklen_t size = sizeof error;
        ::getsockopt(descriptor_, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error == EINPROGRESS) return messages;
        if (error != 0) {
            close();
            if (error == ECONNREFUSED) status_ = Status::refused;
            return messages;
        }
        status_ = Status::open;
    }
    if (status_ != Status::open) return messages;
    flush();
    char bytes[16 << 10];
    for (int reads = 0; reads < most_reads && status_ == Status::open && !in_.broken(); ++reads) {
        const ssize_t got = ::recv(descriptor_, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (got <= 0) {
            close();
            break;
        }
        in_.add({bytes, static_cast<std::size_t>(got)});
        while (std::optional<WatchMessage> message = in_.next())
            messages.push_back(std::move(*message));
    }
    if (in_.broken()) close();
    return messages;
}

WatchListener::WatchListener(const std::string& ip) : descriptor_(make_socket(SOCK_STREAM)) {
    const sockaddr_in wanted = socket_address(ip, 0);
    sockaddr_in own{};
    socklen_t size = sizeof own;
    if (::bind(descriptor_, reinterpret_cast<const sockaddr*>(&wanted), sizeof wanted) != 0 ||
        ::listen(descriptor_, SOMAXCONN) != 0 ||
        ::getsockname(descriptor_, reinterpret_cast<sockaddr*>(&own), &size) != 0) {
        const std::string why = std::strerror(errno);
        ::close(descriptor_);
        throw SystemError(fmt::format("cannot listen on {}: {}", ip, why));
    }
    address_ = {ip, ntohs(own.sin_port)};
}

WatchListener::~WatchListener() { ::close(descriptor_); }

std::optional<WatchConnection> WatchListener::accept() {
    const int accepted = ::accept4(descriptor_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (accepted < 0) return std::nullopt;
    return WatchConnection(accepted);
}

} // namespace tessera
