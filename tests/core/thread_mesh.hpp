// SPDX-License-Identifier: Apache-2.0
// Ranks of a whole mesh as threads of this process, for tests.
#pragma once

#include "parallel/communication/groups.hpp"
#include "parallel/communication/local.hpp"
#include "parallel/communication/shared_memory.hpp"

#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace tessera {

// Runs `body` once per rank of the mesh, each in a thread of its own, and waits for all. As in run_as_threads, an
// exception of one is thrown here, and the others' collectives throw.
inline void run_on_mesh(const Mesh& mesh, const std::function<void(int rank, Groups& groups)>& body) {
    ThreadRanks all(mesh.size());
    std::map<std::pair<int, int>, ThreadRanks> along; // by axis and the first rank of the group
    for (int axis = 0; axis < mesh.axis_count(); ++axis)
        for (int rank = 0; rank < mesh.size(); ++rank)
            along.try_emplace({axis, mesh.group(rank, axis).front()}, mesh.axis(axis).size);
    std::exception_ptr first;
    std::mutex mutex;
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < mesh.size(); ++rank)
        threads.emplace_back([&, rank] {
            try {
                std::vector<Communicator*> axes;
                for (int axis = 0; axis < mesh.axis_count(); ++axis)
                    axes.push_back(&along.at({axis, mesh.group(rank, axis).front()})
                                        .rank(mesh.coordinate(rank)[static_cast<std::size_t>(axis)]));
                Groups groups(axes, all.rank(rank));
                body(rank, groups);
            } catch (...) {
                const std::lock_guard lock(mutex);
                if (!first) first = std::current_exception();
                all.fail();
                for (auto& [place, ranks] : along)
                    ranks.fail();
            }
        });
    threads.clear(); // joins
    if (first) std::rethrow_exception(first);
}

} // namespace tessera
