// SPDX-License-Identifier: Apache-2.0
// Collectives as exchanges of messages with every other rank. MPI's own reductions are not used: their order of summing
// depends on size, rank count and tuning.
#include "parallel/communication/mpi.hpp"

#include "kernels/error.hpp"
#include "parallel/communication/cut.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <vector>

namespace tessera {
namespace {

constexpr std::int64_t small_slice = std::int64_t{1} << 14; // bytes from each rank before a workspace is handed over

class MpiCommunicator final : public Communicator {
public:
    explicit MpiCommunicator(ProcessGroup group)
        : group_(std::move(group)), rank_(group_.rank()), size_(group_.size()), ranks_tree_(size_, size_),
          sources_(static_cast<std::size_t>(size_)) {
        sends_.reserve(sources_.size());
        receives_.reserve(sources_.size());
        small_workspace_ = Buffer((size_ - 1) * small_slice);
        use_workspace(View(small_workspace_.data(), Shape{small_workspace_.bytes() / 4}, DType::f32));
    }

    int rank() const override { return rank_; }
    int size() const override { return size_; }

    void all_reduce(Stream& stream, View buffer, Reduction reduction) override {
        reduce(cpu_stream(stream), buffer, reduction, ranks_tree_);
    }

    void tree_reduce(Stream& stream, View buffer, const SummationTree& tree) override {
        CpuStream& cpu = cpu_stream(stream);
        check_tree(buffer, tree, size_);
        reduce(cpu, buffer, Reduction::sum, tree);
    }

    void all_gather(Stream& stream, ConstView part, View whole, const Parts& parts) override {
        cpu_stream(stream);
        lay_out_gather(part, whole, parts);
        exchange();
    }

    void reduce_scatter(Stream& stream, ConstView whole, View part, const Parts& parts) override {
        CpuStream& cpu = cpu_stream(stream);
        check_part("reduce_scatter", whole, part, parts.unit, size_, rank_);
        if (parts.tree != nullptr) check_tree(whole, *parts.tree, size_);
        const SummationTree& tree = parts.tree != nullptr ? *parts.tree : ranks_tree_;
        const Range own = part_bytes(whole, parts.unit, size_, rank_);
        const std::int64_t largest = part_bytes(whole, parts.unit, size_, 0).size();
        for (std::int64_t at = 0; at < largest; at += slice_limit_) {
            const Range mine = piece_of(own, at, slice_limit_);
            for (const int peer : peers()) {
                const Range theirs = piece_of(part_bytes(whole, parts.unit, size_, peer), at, slice_limit_);
                send_later(bytes_at(whole) + theirs.begin, theirs.size(), peer);
                receive_later(incoming(peer), mine.size(), peer);
            }
            exchange();
            combine_slice(cpu, whole.dtype, Reduction::sum, tree, bytes_at(whole) + mine.begin, mine.size(),
                          bytes_at(part) + (mine.begin - own.begin));
        }
    }

    void all_to_all(Stream& stream, ConstView send, View receive) override {
        cpu_stream(stream);
        check_blocks(send, receive, size_);
        const std::int64_t block = send.bytes() / size_;
        copy_bytes(bytes_at(receive) + rank_ * block, bytes_at(send) + rank_ * block, block);
        for (const int peer : peers()) {
            send_later(bytes_at(send) + peer * block, block, peer);
            receive_later(bytes_at(receive) + peer * block, block, peer);
        }
        exchange();
    }

    void all_to_allv(Stream& stream, ConstView send, View receive, std::span<const std::int64_t> bytes) override {
        cpu_stream(stream);
        check_uneven_blocks(send, receive, bytes, size_, rank_);
        const UnevenBlocks blocks(bytes, size_);
        for (const int peer : peers()) {
            const Range there = blocks.in_sent(rank_, peer), here = blocks.in_received(peer, rank_);
            send_later(bytes_at(send) + there.begin, there.size(), peer);
            receive_later(bytes_at(receive) + here.begin, here.size(), peer);
        }
        exchange();
    }

    void broadcast(Stream& stream, View buffer, int root) override {
        cpu_stream(stream);
        check_rank("broadcast", root, size_);
        group_.broadcast(buffer.memory(), buffer.bytes(), root);
        if (rank_ == root) bytes_sent_ += buffer.bytes() * (size_ - 1); // by whichever path MPI forwards it
    }

    void send(Stream& stream, ConstView view, int to) override {
        cpu_stream(stream);
        check_rank("send", to, size_);
        send_later(bytes_at(view), view.bytes(), to);
        exchange();
    }

    void receive(Stream& stream, View view, int from) override {
        cpu_stream(stream);
        check_rank("receive", from, size_);
        receive_later(bytes_at(view), view.bytes(), from);
        exchange();
    }

    Ticket post(Stream& stream, ConstView view, int to, int channel) override {
        cpu_stream(stream);
        check_rank("post", to, size_);
        bytes_sent_ += view.bytes();
        return group_.post({const_cast<std::byte*>(bytes_at(view)), view.bytes(), to}, channel);
    }

    Ticket expect(Stream& stream, View view, int from, int channel) override {
        cpu_stream(stream);
        check_rank("expect", from, size_);
        return group_.expect({bytes_at(view), view.bytes(), from}, channel);
    }

    void finish(Ticket ticket) override { group_.finish(ticket); }

    Ticket begin_all_gather(Stream& stream, ConstView part, View whole, const Parts& parts) override {
        cpu_stream(stream);
        lay_out_gather(part, whole, parts);
        const Ticket ticket = group_.begin_exchange(sends_, receives_);
        sends_.clear();
        receives_.clear();
        return ticket;
    }

    void progress() override { group_.progress(); }

    void shift(Stream& stream, ConstView send, View receive) override {
        cpu_stream(stream);
        check_shift(send, receive);
        if (size_ == 1) return copy_bytes(bytes_at(receive), bytes_at(send), send.bytes());
        send_later(bytes_at(send), send.bytes(), (rank_ + 1) % size_);
        receive_later(bytes_at(receive), receive.bytes(), (rank_ + size_ - 1) % size_);
        exchange();
    }

    void barrier(Stream& stream) override {
        cpu_stream(stream);
        group_.barrier();
    }

    std::int64_t workspace_bytes(Collective collective, std::int64_t whole_bytes) const override {
        const bool reduces = collective == Collective::all_reduce || collective == Collective::reduce_scatter;
        return reduces ? tree_reduce_workspace_bytes(whole_bytes, size_, BackEnd::mpi) : 0;
    }

    void use_workspace(View workspace) override {
        if (size_ == 1) return;
        const std::int64_t slice = workspace.bytes() / (size_ - 1) / alignment_bytes * alignment_bytes;
        if (slice < small_slice) return; // what is there already is better
        slice_limit_ = slice;
        workspace_ = bytes_at(workspace);
    }

private:
    // The other ranks, each rank starting with its right neighbour, so that not all send to one at a time.
    class Peers {
    public:
        Peers(int rank, int size) : rank_(rank), size_(size) {}
        struct Iterator {
            int rank, size, step;
            int operator*() const { return (rank + step) % size; }
            Iterator& operator++() {
                ++step;
                return *this;
            }
            bool operator!=(const Iterator& other) const { return step != other.step; }
        };
        Iterator begin() const { return {rank_, size_, 1}; }
        Iterator end() const { return {rank_, size_, size_}; }

    private:
        int rank_, size_;
    };
    Peers peers() const { return {rank_, size_}; }

    void reduce(CpuStream& stream, const View& buffer, Reduction reduction, const SummationTree& tree) {
        for (std::int64_t at = 0; size_ > 1 && at < buffer.bytes(); at += slice_limit_ * size_) {
            std::byte* piece = bytes_at(buffer) + at;
            const std::int64_t bytes = std::min(slice_limit_ * size_, buffer.bytes() - at);
            const Range own = slice_bytes(bytes, size_, rank_);
            for (const int peer : peers()) {
                const Range theirs = slice_bytes(bytes, size_, peer);
                send_later(piece + theirs.begin, theirs.size(), peer);
                receive_later(incoming(peer), own.size(), peer);
            }
            exchange();
            combine_slice(stream, buffer.dtype, reduction, tree, piece + own.begin, own.size(), piece + own.begin);
            for (const int peer : peers()) {
                const Range theirs = slice_bytes(bytes, size_, peer);
                send_later(piece + own.begin, own.size(), peer);
                receive_later(piece + theirs.begin, theirs.size(), peer);
            }
            exchange();
        }
    }

    void lay_out_gather(ConstView part, const View& whole, const Parts& parts) {
        check_part("all_gather", whole, part, parts.unit, size_, rank_);
        const Range own = part_bytes(whole, parts.unit, size_, rank_);
        copy_bytes(bytes_at(whole) + own.begin, bytes_at(part), own.size());
        for (const int peer : peers()) {
            const Range theirs = part_bytes(whole, parts.unit, size_, peer);
            send_later(bytes_at(whole) + own.begin, own.size(), peer);
            receive_later(bytes_at(whole) + theirs.begin, theirs.size(), peer);
        }
    }

    // This rank's slice, and the other ranks' pieces that have arrived for it.
    void combine_slice(CpuStream& stream, DType dtype, Reduction reduction, const SummationTree& tree,
                       const std::byte* own, std::int64_t bytes, std::byte* to) {
        for (const int peer : peers())
            sources_[static_cast<std::size_t>(peer)] = incoming(peer);
        sources_[static_cast<std::size_t>(rank_)] = own;
        kernels::combine(stream, dtype, reduction, tree.merges_after(), sources_, bytes / bytes_of(dtype), {&to, 1});
    }

    std::byte* incoming(int peer) const { return workspace_ + (peer < rank_ ? peer : peer - 1) * slice_limit_; }

    void send_later(const std::byte* data, std::int64_t bytes, int to) {
        bytes_sent_ += bytes;
        if (bytes > 0) sends_.push_back({const_cast<std::byte*>(data), bytes, to});
    }

    void receive_later(std::byte* data, std::int64_t bytes, int from) {
        if (bytes > 0) receives_.push_back({data, bytes, from});
    }

    void exchange() {
        group_.exchange(sends_, receives_);
        sends_.clear();
        receives_.clear();
    }

    ProcessGroup group_;
    int rank_;
    int size_;
    SummationTree ranks_tree_; // of one leaf per rank
    std::vector<const std::byte*> sources_;
    std::vector<Message> sends_;
    std::vector<Message> receives_;
    Buffer small_workspace_;
    std::byte* workspace_ = nullptr; // one slice from each other rank
    std::int64_t slice_limit_ = small_slice;
};

} // namespace

std::unique_ptr<Communicator> make_mpi_communicator(ProcessGroup group) {
    return std::make_unique<MpiCommunicator>(std::move(group));
}

} // namespace tessera
