// SPDX-License-Identifier: Apache-2.0
// A mesh whose ranks are threads: a meeting place for each group of each axis.
#include "parallel/communication/groups.hpp"
#include "parallel/communication/local.hpp"
#include "parallel/communication/shared_memory.hpp"

#include <exception>
#include <map>
#include <mutex>

namespace tessera {
namespace {

class ThreadMesh {
public:
    explicit ThreadMesh(const Mesh& mesh) : mesh_(mesh), axes_(static_cast<std::size_t>(mesh.axis_count())) {
        for (int axis = 0; axis < mesh.axis_count(); ++axis)
            for (int rank = 0; rank < mesh.size() && mesh.axis(axis).size > 1; ++rank)
                if (mesh.group(rank, axis).front() == rank) // names the group among its parallels
                    axes_[static_cast<std::size_t>(axis)].try_emplace(rank, mesh.axis(axis).size);
    }

    Groups of(Communicator& all) {
        const std::vector<int> coordinate = mesh_.coordinate(all.rank());
        std::vector<Communicator*> found;
        for (std::size_t axis = 0; axis < axes_.size(); ++axis) {
            const int first = mesh_.group(all.rank(), static_cast<int>(axis)).front();
            found.push_back(axes_[axis].empty() ? nullptr : &axes_[axis].at(first).rank(coordinate[axis]));
        }
        return {all, found};
    }

    void fail() {
        for (auto& groups : axes_)
            for (auto& [first, ranks] : groups)
                ranks.fail();
    }

private:
    const Mesh& mesh_;
    std::vector<std::map<int, ThreadRanks>> axes_; // of each the groups, by their first rank
};

} // namespace

void run_as_threads(const Mesh& mesh, const std::function<void(int rank, Groups groups)>& body) {
    ThreadMesh threads(mesh);
    std::mutex mutex;
    std::exception_ptr first;
    const auto run = [&](Communicator& all) {
        try {
            body(all.rank(), threads.of(all));
        } catch (...) {
            const std::lock_guard lock(mutex);
            if (!first) first = std::current_exception();
            threads.fail();
            throw;
        }
    };
    try {
        run_as_threads(mesh.size(), run);
    } catch (...) { // perhaps of another that only waited for the first
        std::rethrow_exception(first);
    }
}

} // namespace tessera
