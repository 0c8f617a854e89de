// SPDX-License-Identifier: Apache-2.0
// Ranks as processes of one test: forked, in contact with rank 0 through sockets, and ended with their team when one is
// killed, as mpirun does it.
#pragma once

#include "core/checkpoint/checkpoint.hpp"

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace tessera {

inline constexpr int left_alone = 99; // exit code of a rank whose team is gone

inline void send_text(int socket, const std::string& text) {
    const auto size = static_cast<std::int64_t>(text.size());
    std::string all(reinterpret_cast<const char*>(&size), sizeof size);
    all += text;
    for (std::size_t sent = 0; sent < all.size();) {
        const ssize_t some = ::send(socket, all.data() + sent, all.size() - sent, MSG_NOSIGNAL);
        if (some <= 0) _exit(left_alone);
        sent += static_cast<std::size_t>(some);
    }
}

inline std::string receive_text(int socket) {
    const auto receive = [socket](char* data, std::size_t bytes) {
        while (bytes > 0) {
            const ssize_t some = ::recv(socket, data, bytes, 0);
            if (some <= 0) _exit(left_alone);
            data += some;
            bytes -= static_cast<std::size_t>(some);
        }
    };
    std::int64_t size = 0;
    receive(reinterpret_cast<char*>(&size), sizeof size);
    std::string text(static_cast<std::size_t>(size), '\0');
    receive(text.data(), text.size());
    return text;
}

// `to_others`: rank 0's sockets by rank; the others' only one leads to rank 0.
inline Team team_over_sockets(int rank, int size, const std::vector<int>& sockets) {
    Team team{rank, size, nullptr, nullptr, nullptr};
    team.gather = [=](const std::string& text) {
        std::vector<std::string> all;
        if (rank > 0) {
            send_text(sockets[0], text);
            return all;
        }
        all.push_back(text);
        for (int other = 1; other < size; ++other)
            all.push_back(receive_text(sockets[static_cast<std::size_t>(other)]));
        return all;
    };
    team.broadcast = [=](const std::string& text) {
        if (rank > 0) return receive_text(sockets[0]);
        for (int other = 1; other < size; ++other)
            send_text(sockets[static_cast<std::size_t>(other)], text);
        return text;
    };
    team.all = [gather = team.gather, broadcast = team.broadcast](bool word) {
        bool everybody = true;
        for (const std::string& text : gather(word ? "y" : "n"))
            everybody = everybody && text == "y";
        return broadcast(everybody ? "y" : "n") == "y";
    };
    return team;
}

struct RankEnd {
    int status = 0;   // of waitpid
    std::string said; // what its work returned; "" when it was killed
};

// Runs work(team) in `size` processes, each of which has at most 20 seconds.
inline std::vector<RankEnd> run_processes(int size, const std::function<std::string(const Team&)>& work) {
    std::vector<int> near(static_cast<std::size_t>(size)), far(near), pipes(near);
    std::vector<pid_t> children;
    for (std::size_t rank = 0; rank < near.size(); ++rank) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) throw std::runtime_error("socketpair");
        near[rank] = pair[0];
        far[rank] = pair[1];
    }
    for (int rank = 0; rank < size; ++rank) {
        int ends[2];
        if (pipe(ends) != 0) throw std::runtime_error("pipe");
        const pid_t child = fork();
        if (child == 0) {
            alarm(20);
            for (int other = 0; other < size; ++other) { // a rank that is gone must be seen to be
                if (rank != 0) ::close(near[static_cast<std::size_t>(other)]);
                if (rank == 0 || other != rank) ::close(far[static_cast<std::size_t>(other)]);
            }
            const std::vector<int> sockets = rank == 0 ? near : std::vector<int>{far[static_cast<std::size_t>(rank)]};
            const std::string said = work(team_over_sockets(rank, size, sockets));
            const ssize_t written = ::write(ends[1], said.data(), said.size());
            _exit(written == static_cast<ssize_t>(said.size()) ? 0 : 1);
        }
        ::close(ends[1]);
        pipes[static_cast<std::size_t>(rank)] = ends[0];
        children.push_back(child);
    }
    for (const std::vector<int>& sockets : {near, far})
        for (const int socket : sockets)
            ::close(socket);
    std::vector<RankEnd> ends(near.size());
    for (std::size_t rank = 0; rank < ends.size(); ++rank) {
        char piece[4096];
        for (ssize_t some; (some = ::read(pipes[rank], piece, sizeof piece)) > 0;)
            ends[rank].said.append(piece, static_cast<std::size_t>(some));
        ::close(pipes[rank]);
        waitpid(children[rank], &ends[rank].status, 0);
    }
    return ends;
}

} // namespace tessera
