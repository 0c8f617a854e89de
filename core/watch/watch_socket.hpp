// SPDX-License-Identifier: Apache-2.0
// How the watchdogs of a job talk: short messages over TCP, from who knows the job's token only. Knows no rank's state.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// What only the ranks of one job know: rank 0 draws it, MPI carries it to the others.
using WatchToken = std::array<std::uint8_t, 32>;
WatchToken draw_token();
bool is_equal(const WatchToken& a, const WatchToken& b); // takes as long whatever they hold

struct WatchMessage {
    char kind;
    std::string body;
};

// A stream of messages: 4 bytes of length (kind and body, little end first), a byte of kind, the body.
class MessageParser {
public:
    void add(std::string_view bytes);
    std::optional<WatchMessage> next(); // nothing: more bytes must come, or broken()
    bool broken() const { return broken_; }

private:
    std::string bytes_;
    bool broken_ = false; // a length of 0 or above most_message_bytes: what follows means nothing
};
std::string framed(char kind, std::string_view body); // InternalError for more than most_message_bytes

struct WatchAddress {
    std::string ip; // IPv4, in dots
    std::uint16_t port = 0;
};
// Addresses of this host's interfaces that are up, without the loopback's.
std::vector<std::string> interface_addresses();
// The address of this host that packets to `remote` leave from; "" when none does.
std::string address_towards(const std::string& remote);

// One end of a connection. Nothing waits. Move-only.
class WatchConnection {
public:
    enum class Status { connecting, open, refused, closed };

    explicit WatchConnection(int accepted);
    explicit WatchConnection(const WatchAddress& to); // begins to connect
    WatchConnection(WatchConnection&& other) noexcept;
    WatchConnection& operator=(WatchConnection&& other) noexcept;
    ~WatchConnection();

    int descriptor() const { return descriptor_; }
    bool wants_to_write() const { return status_ == Status::connecting || !out_.empty(); }
    Status status() const { return status_; }

    void send(char kind, std::string_view body);
    void close();
    void finish(); // closes once the other end has what was sent, or has had a moment for it
    // After poll() said that there is something to do. Returns the messages that have come whole.
    std::vector<WatchMessage> proceed();

private:
    void flush();

    int descriptor_ = -1;
    Status status_ = Status::closed;
    MessageParser in_;
    std::string out_;
};

// Takes connections on one address. Move-only by being neither.
class WatchListener {
public:
    explicit WatchListener(const std::string& ip); // any free port; SystemError when it cannot listen there
    ~WatchListener();
    WatchListener(const WatchListener&) = delete;
    WatchListener& operator=(const WatchListener&) = delete;

    int descriptor() const { return descriptor_; }
    const WatchAddress& address() const { return address_; }
    std::optional<WatchConnection> accept();

private:
    int descriptor_ = -1;
    WatchAddress address_;
};

} // namespace tessera
