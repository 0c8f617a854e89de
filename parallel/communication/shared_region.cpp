// SPDX-License-Identifier: Apache-2.0
// memfd_create on rank 0; its descriptor travels to the other ranks over a Unix socket. /proc/PID/fd would be shorter,
// but is closed to ranks that run in containers of their own.
#include "parallel/communication/shared_region.hpp"

#include "kernels/error.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <utility>

namespace tessera {
namespace {

constexpr std::int64_t page = 4096;
constexpr std::int64_t huge_page = std::int64_t{2} << 20;
constexpr int patience_ms = 60'000; // with another rank of this host

class Descriptor {
public:
    explicit Descriptor(int value = -1) : value_(value) {}
    Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(value_, other.value_);
        return *this;
    }
    ~Descriptor() {
        if (value_ >= 0) close(value_);
    }
    int get() const { return value_; }

private:
    int value_;
};

int checked(int result, const char* call) {
    if (result < 0) throw SystemError(fmt::format("{}: {}", call, std::strerror(errno)));
    return result;
}

struct Address {
    sockaddr_un address{};
    socklen_t length = 0;
};

// One byte that carries a descriptor: the shape that the kernel asks for.
struct Parcel {
    char byte = 0;
    iovec content{&byte, 1};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr header{};

    Parcel() {
        header.msg_iov = &content;
        header.msg_iovlen = 1;
        header.msg_control = control.data();
        header.msg_controllen = control.size();
    }
};

Descriptor listen_for(int ranks, Address& address) {
    Descriptor socket(checked(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
    address.address.sun_family = AF_UNIX; // without a name: the kernel finds a free one that is no file
    checked(bind(socket.get(), reinterpret_cast<sockaddr*>(&address.address), sizeof(sa_family_t)), "bind");
    address.length = sizeof(address.address);
    checked(getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address.address), &address.length), "getsockname");
    checked(listen(socket.get(), ranks), "listen");
    return socket;
}

// A signal, as those that ask a run to save and stop, ends no wait.
void await(int socket) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(patience_ms);
    pollfd waiting{socket, POLLIN, 0};
    int ready = -1;
    do {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
        ready = poll(&waiting, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
    } while (ready < 0 && errno == EINTR);
    if (checked(ready, "poll") == 0)
        throw SystemError(fmt::format("no answer from another rank of this host in {} s", patience_ms / 1000));
}

// Hands `file` to the next caller. Callers of other users are turned away.
bool hand_over(int listening, int file) {
    await(listening);
    const Descriptor caller(checked(accept4(listening, nullptr, nullptr, SOCK_CLOEXEC), "accept4"));
    ucred who{};
    socklen_t length = sizeof who;
    checked(getsockopt(caller.get(), SOL_SOCKET, SO_PEERCRED, &who, &length), "getsockopt");
    if (who.uid != geteuid()) return false;
    Parcel parcel;
    cmsghdr* control = CMSG_FIRSTHDR(&parcel.header);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(control), &file, sizeof file);
    checked(static_cast<int>(sendmsg(caller.get(), &parcel.header, MSG_NOSIGNAL)), "sendmsg");
    return true;
}

Descriptor fetch(const Address& address) {
    const Descriptor socket(checked(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
    checked(connect(socket.get(), reinterpret_cast<const sockaddr*>(&address.address), address.length), "connect");
    await(socket.get());
    Parcel parcel;
    checked(static_cast<int>(recvmsg(socket.get(), &parcel.header, MSG_CMSG_CLOEXEC)), "recvmsg");
    const cmsghdr* control = CMSG_FIRSTHDR(&parcel.header);
    if (control == nullptr || control->cmsg_type != SCM_RIGHTS) throw SystemError("rank 0 of this host sent no memory");
    int file = -1;
    std::memcpy(&file, CMSG_DATA(control), sizeof file);
    return Descriptor(file);
}

// Runs a step on this rank and agrees on its outcome: all ranks go on, or all throw.
template <class Step> void together(const ProcessGroup& group, std::int64_t bytes, const Step& step) {
    std::string reason = "another rank of this host failed to";
    bool good = true;
    try {
        step();
    } catch (const SystemError& error) {
        reason = error.what();
        good = false;
    }
    if (group.all(good)) return;
    throw SystemError(fmt::format("cannot share {} bytes between the {} ranks of this host: {}; with "
                                  "parallelism.shared_memory=false they exchange messages instead",
                                  bytes, group.size(), reason));
}

} // namespace

SharedRegion::SharedRegion(const ProcessGroup& group, std::int64_t bytes) {
    const std::int64_t largest = group.largest(bytes);
    const std::int64_t unit = largest >= huge_page / 2 ? huge_page : page;
    window_bytes_ = std::max<std::int64_t>(1, (largest + unit - 1) / unit) * unit;
    bytes_ = window_bytes_ * group.size();

    Descriptor file;
    Descriptor listening;
    Address address;
    together(group, bytes_, [&] {
        if (group.rank() != 0) return;
        file = Descriptor(checked(memfd_create("tessera", MFD_CLOEXEC), "memfd_create"));
        checked(ftruncate(file.get(), bytes_), "ftruncate");
        listening = listen_for(group.size(), address);
    });
    group.broadcast(&address, sizeof address, 0);
    together(group, bytes_, [&] {
        for (int handed = 1; group.rank() == 0 && handed < group.size();)
            handed += hand_over(listening.get(), file.get()) ? 1 : 0;
        if (group.rank() != 0) file = fetch(address);
    });
    try {
        together(group, bytes_, [&] { map(file.get(), group.rank(), bytes); });
    } catch (...) {
        unmap();
        throw;
    }
}

void SharedRegion::map(int file, int rank, std::int64_t bytes) {
    void* memory = mmap(nullptr, static_cast<std::size_t>(bytes_), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) throw SystemError(fmt::format("mmap: {}", std::strerror(errno)));
    data_ = static_cast<std::byte*>(memory);
    madvise(memory, static_cast<std::size_t>(bytes_), MADV_HUGEPAGE); // advice only: small pages work too
    // Taken now, so that a lack of memory is a sentence here and not a SIGBUS in a kernel. Linux before 5.14 does not
    // know how (EINVAL) and takes pages at their first touch.
    const int taken = madvise(window(rank), static_cast<std::size_t>(bytes), MADV_POPULATE_WRITE);
    if (taken != 0 && errno != EINVAL) throw SystemError(fmt::format("no memory: {}", std::strerror(errno)));
}

void SharedRegion::unmap() {
    if (data_ != nullptr) munmap(data_, static_cast<std::size_t>(bytes_));
}

SharedRegion::~SharedRegion() { unmap(); }

} // namespace tessera
