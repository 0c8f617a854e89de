// SPDX-License-Identifier: Apache-2.0
// One rank alone, and threads that act as ranks.
#include "parallel/communication/local.hpp"

#include "kernels/copy.hpp"
#include "kernels/error.hpp"
#include "parallel/communication/cut.hpp"
#include "parallel/communication/shared_memory.hpp"

#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace tessera {
namespace {

void copy(Stream& stream, ConstView from, View to) {
    if (from.data == to.data) return;
    std::visit([&](auto& s) { kernels::cast(s, from, to); }, stream);
}

class LocalCommunicator final : public Communicator {
public:
    int rank() const override { return 0; }
    int size() const override { return 1; }

    void all_reduce(Stream&, View, Reduction) override {}
    void tree_reduce(Stream&, View buffer, const SummationTree& tree) override { check_tree(buffer, tree, 1); }
    void all_gather(Stream& stream, ConstView part, View whole, const Parts& parts) override {
        check_part("all_gather", whole, part, parts.unit, 1, 0);
        copy(stream, part, whole);
    }
    void reduce_scatter(Stream& stream, ConstView whole, View part, const Parts& parts) override {
        check_part("reduce_scatter", whole, part, parts.unit, 1, 0);
        copy(stream, whole, part);
    }
    void all_to_all(Stream& stream, ConstView send, View receive) override {
        check_blocks(send, receive, 1);
        copy(stream, send, receive);
    }
    void all_to_allv(Stream&, ConstView send, View receive, std::span<const std::int64_t> bytes) override {
        check_uneven_blocks(send, receive, bytes, 1, 0);
    }
    void broadcast(Stream&, View, int root) override { check_rank("broadcast", root, 1); }
    void send(Stream&, ConstView, int) override { throw InternalError("send: there is no other rank"); }
    void receive(Stream&, View, int) override { throw InternalError("receive: there is no other rank"); }
    void shift(Stream& stream, ConstView send, View receive) override {
        check_shift(send, receive);
        copy(stream, send, receive);
    }
    void barrier(Stream&) override {}
};

} // namespace

std::unique_ptr<Communicator> make_local_communicator() { return std::make_unique<LocalCommunicator>(); }

void run_as_threads(int ranks, const std::function<void(Communicator&)>& body) {
    ThreadRanks thread_ranks(ranks);
    std::exception_ptr first;
    std::mutex mutex;
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < ranks; ++rank)
        threads.emplace_back([&, rank] {
            try {
                body(thread_ranks.rank(rank));
            } catch (...) {
                const std::lock_guard lock(mutex);
                if (!first) first = std::current_exception();
                thread_ranks.fail();
            }
        });
    threads.clear(); // joins
    if (first) std::rethrow_exception(first);
}

} // namespace tessera
