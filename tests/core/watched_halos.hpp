// SPDX-License-Identifier: Apache-2.0
// A communicator that counts what ranks fetch from each other and can lose some of it, for tests.
#pragma once

#include "parallel/communication/communicator.hpp"

#include <algorithm>
#include <cstring>

namespace tessera {

class WatchedHalos final : public Communicator {
public:
    // Of what this rank receives of halos, the first `lost` bytes of each fetch arrive as zeros.
    explicit WatchedHalos(Communicator& watched, std::int64_t lost = 0) : watched_(watched), lost_(lost) {}

    std::int64_t halo_bytes() const { return halo_bytes_; }

    int rank() const override { return watched_.rank(); }
    int size() const override { return watched_.size(); }
    void all_reduce(Stream& stream, View buffer, Reduction reduction) override {
        watched_.all_reduce(stream, buffer, reduction);
    }
    void tree_reduce(Stream& stream, View buffer, const SummationTree& tree) override {
        watched_.tree_reduce(stream, buffer, tree);
    }
    void all_gather(Stream& stream, ConstView part, View whole, const Parts& parts) override {
        watched_.all_gather(stream, part, whole, parts);
    }
    void reduce_scatter(Stream& stream, ConstView whole, View part, const Parts& parts) override {
        watched_.reduce_scatter(stream, whole, part, parts);
    }
    void all_to_all(Stream& stream, ConstView send, View receive) override {
        watched_.all_to_all(stream, send, receive);
    }
    void all_to_allv(Stream& stream, ConstView send, View receive, std::span<const std::int64_t> bytes) override {
        const std::int64_t before = watched_.bytes_sent();
        watched_.all_to_allv(stream, send, receive, bytes);
        halo_bytes_ += watched_.bytes_sent() - before;
        const std::int64_t lost = std::min(lost_, receive.bytes());
        if (lost > 0) std::memset(receive.memory(), 0, static_cast<std::size_t>(lost));
    }
    void broadcast(Stream& stream, View buffer, int root) override { watched_.broadcast(stream, buffer, root); }
    void send(Stream& stream, ConstView view, int to) override { watched_.send(stream, view, to); }
    void receive(Stream& stream, View view, int from) override { watched_.receive(stream, view, from); }
    void shift(Stream& stream, ConstView send, View receive) override { watched_.shift(stream, send, receive); }
    void barrier(Stream& stream) override { watched_.barrier(stream); }
    Ticket post(Stream& stream, ConstView view, int to, int channel) override {
        return watched_.post(stream, view, to, channel);
    }
    Ticket expect(Stream& stream, View view, int from, int channel) override {
        return watched_.expect(stream, view, from, channel);
    }
    void finish(Ticket ticket) override { watched_.finish(ticket); }

private:
    Communicator& watched_;
    std::int64_t lost_;
    std::int64_t halo_bytes_ = 0;
};

} // namespace tessera
