// SPDX-License-Identifier: Apache-2.0
// Collectives over NCCL. Sums of floating types in the order of the tree are an exchange of slices, a kernel that adds
// them, and a second exchange, since the order of NCCL's own reductions depends on size, rank count and tuning.
#include "parallel/communication/nccl.hpp"

#include "kernels/combine.hpp"
#include "kernels/cuda/device.hpp"
#include "kernels/error.hpp"
#include "parallel/communication/cut.hpp"
#include "parallel/communication/nccl_connections.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::int64_t small_slice = std::int64_t{1} << 16; // bytes from each rank before a workspace is handed over

CudaStream& gpu(Stream& stream) {
    if (auto* cuda = std::get_if<CudaStream>(&stream)) return *cuda;
    throw InternalError("a communicator over NCCL, which exchanges a GPU's memory, was handed a CPU's stream");
}

ncclDataType_t type_of(DType dtype) {
    switch (dtype) {
    case DType::f32:
        return ncclFloat32;
    case DType::bf16:
        return ncclBfloat16;
    case DType::f16:
        return ncclFloat16;
    case DType::i32:
        return ncclInt32;
    default:
        throw InternalError(fmt::format("no collective of {} over NCCL", name_of(dtype)));
    }
}

ncclRedOp_t operation_of(Reduction reduction) {
    return reduction == Reduction::sum ? ncclSum : reduction == Reduction::max ? ncclMax : ncclMin;
}

void copy_on_gpu(CudaStream& stream, std::byte* to, const std::byte* from, std::int64_t bytes) {
    if (bytes == 0 || to == from) return;
    cuda::check(
        cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, stream.state().stream),
        "cudaMemcpyAsync", bytes);
}

class NcclCommunicator final : public Communicator {
public:
    NcclCommunicator(std::shared_ptr<NcclConnections> connections, std::size_t number, const ProcessGroup& group,
                     const CudaStream& stream, SumOrder order)
        : rank_(group.rank()), size_(group.size()), order_(order), ranks_tree_(size_, size_),
          sources_(static_cast<std::size_t>(size_)),
          own_memory_(tessera::allocate(stream, alignment_bytes + (size_ - 1) * small_slice)),
          workspace_(own_memory_.data() + alignment_bytes), connections_(std::move(connections)), number_(number) {
        stream.wait(); // for the zeros: calls come on any stream
    }
    ~NcclCommunicator() override { connections_->abort_while_unwinding(); }

    int rank() const override { return rank_; }
    int size() const override { return size_; }

    void all_reduce(Stream& stream, View buffer, Reduction reduction) override {
        CudaStream& cuda = gpu(stream);
        const ncclComm_t peers = connections_->begin(number_, "all_reduce", buffer.bytes());
        if (!by_library(buffer.dtype, reduction)) return reduce(cuda, peers, buffer, reduction, ranks_tree_);
        if (buffer.bytes() == 0) return;
        check(ncclAllReduce(buffer.data, buffer.memory(), static_cast<std::size_t>(buffer.count()),
                            type_of(buffer.dtype), operation_of(reduction), peers, cuda.state().stream));
        bytes_sent_ += tessera::bytes_sent(Collective::all_reduce, buffer.bytes(), size_);
    }

    void tree_reduce(Stream& stream, View buffer, const SummationTree& tree) override {
        check_tree(buffer, tree, size_);
        CudaStream& cuda = gpu(stream);
        reduce(cuda, connections_->begin(number_, "tree_reduce", buffer.bytes()), buffer, Reduction::sum, tree);
    }

    void all_gather(Stream& stream, ConstView part, View whole, const Parts& parts) override {
        CudaStream& cuda = gpu(stream);
        check_part("all_gather", whole, part, parts.unit, size_, rank_);
        const ncclComm_t peers = connections_->begin(number_, "all_gather", whole.bytes());
        if (whole.bytes() == 0) return;
        const Range own = part_bytes(whole, parts.unit, size_, rank_);
        if (whole.shape[0] % (parts.unit * size_) == 0) {
            gather_equal(cuda, peers, bytes_at(part), bytes_at(whole), own.size());
        } else {
            copy_on_gpu(cuda, bytes_at(whole) + own.begin, bytes_at(part), own.size());
            Exchange exchange(*this, cuda, peers);
            for (int peer = 0; peer < size_; ++peer) {
                const Range theirs = part_bytes(whole, parts.unit, size_, peer);
                exchange.send(bytes_at(part), own.size(), peer);
                exchange.receive(bytes_at(whole) + theirs.begin, theirs.size(), peer);
            }
            exchange.finish();
        }
    }

    void reduce_scatter(Stream& stream, ConstView whole, View part, const Parts& parts) override {
        CudaStream& cuda = gpu(stream);
        check_part("reduce_scatter", whole, part, parts.unit, size_, rank_);
        if (parts.tree != nullptr) check_tree(whole, *parts.tree, size_);
        const SummationTree& tree = parts.tree != nullptr ? *parts.tree : ranks_tree_;
        const ncclComm_t peers = connections_->begin(number_, "reduce_scatter", whole.bytes());
        if (whole.bytes() == 0) return;
        if (parts.tree == nullptr && by_library(whole.dtype, Reduction::sum) &&
            whole.shape[0] % (parts.unit * size_) == 0) {
            check(ncclReduceScatter(whole.data, part.memory(), static_cast<std::size_t>(part.count()),
                                    type_of(whole.dtype), ncclSum, peers, cuda.state().stream));
            bytes_sent_ += whole.bytes() - part.bytes();
            return;
        }
        const Range own = part_bytes(whole, parts.unit, size_, rank_);
        const std::int64_t largest = part_bytes(whole, parts.unit, size_, 0).size();
        for (std::int64_t at = 0; at < largest; at += slice_limit_) {
            const Range mine = piece_of(own, at, slice_limit_);
            Exchange exchange(*this, cuda, peers);
            for (int peer = 0; peer < size_; ++peer) {
                const Range theirs = piece_of(part_bytes(whole, parts.unit, size_, peer), at, slice_limit_);
                exchange.send(bytes_at(whole) + theirs.begin, theirs.size(), peer);
                exchange.receive(incoming(peer), mine.size(), peer);
            }
            exchange.finish();
            combine_slice(cuda, whole.dtype, Reduction::sum, tree, bytes_at(whole) + mine.begin, mine.size(),
                          bytes_at(part) + (mine.begin - own.begin));
        }
    }

    void all_to_all(Stream& stream, ConstView send, View receive) override {
        CudaStream& cuda = gpu(stream);
        check_blocks(send, receive, size_);
        const ncclComm_t peers = connections_->begin(number_, "all_to_all", send.bytes());
        const std::int64_t block = send.bytes() / size_;
        copy_on_gpu(cuda, bytes_at(receive) + rank_ * block, bytes_at(send) + rank_ * block, block);
        Exchange exchange(*this, cuda, peers);
        for (int peer = 0; peer < size_; ++peer) {
            exchange.send(bytes_at(send) + peer * block, block, peer);
            exchange.receive(bytes_at(receive) + peer * block, block, peer);
        }
        exchange.finish();
    }

    void all_to_allv(Stream& stream, ConstView send, View receive, std::span<const std::int64_t> bytes) override {
        CudaStream& cuda = gpu(stream);
        check_uneven_blocks(send, receive, bytes, size_, rank_);
        const UnevenBlocks blocks(bytes, size_);
        Exchange exchange(*this, cuda, connections_->begin(number_, "all_to_allv", send.bytes()));
        for (int peer = 0; peer < size_; ++peer) {
            const Range there = blocks.in_sent(rank_, peer), here = blocks.in_received(peer, rank_);
            exchange.send(bytes_at(send) + there.begin, there.size(), peer);
            exchange.receive(bytes_at(receive) + here.begin, here.size(), peer);
        }
        exchange.finish();
    }

    void broadcast(Stream& stream, View buffer, int root) override {
        CudaStream& cuda = gpu(stream);
        check_rank("broadcast", root, size_);
        const ncclComm_t peers = connections_->begin(number_, "broadcast", buffer.bytes());
        if (buffer.bytes() == 0) return;
        check(ncclBroadcast(buffer.data, buffer.memory(), static_cast<std::size_t>(buffer.bytes()), ncclInt8, root,
                            peers, cuda.state().stream));
        if (rank_ == root) bytes_sent_ += buffer.bytes() * (size_ - 1); // by whichever path NCCL forwards it
    }

    void send(Stream& stream, ConstView view, int to) override {
        CudaStream& cuda = gpu(stream);
        check_rank("send", to, size_);
        Exchange exchange(*this, cuda, connections_->begin(number_, "send", view.bytes()));
        exchange.send(bytes_at(view), view.bytes(), to);
        exchange.finish();
    }

    void receive(Stream& stream, View view, int from) override {
        CudaStream& cuda = gpu(stream);
        check_rank("receive", from, size_);
        Exchange exchange(*this, cuda, connections_->begin(number_, "receive", view.bytes()));
        exchange.receive(bytes_at(view), view.bytes(), from);
        exchange.finish();
    }

    void shift(Stream& stream, ConstView send, View receive) override {
        CudaStream& cuda = gpu(stream);
        check_shift(send, receive);
        if (size_ == 1) return copy_on_gpu(cuda, bytes_at(receive), bytes_at(send), send.bytes());
        Exchange exchange(*this, cuda, connections_->begin(number_, "shift", send.bytes()));
        exchange.send(bytes_at(send), send.bytes(), (rank_ + 1) % size_);
        exchange.receive(bytes_at(receive), receive.bytes(), (rank_ + size_ - 1) % size_);
        exchange.finish();
    }

    void barrier(Stream& stream) override {
        CudaStream& cuda = gpu(stream);
        const ncclComm_t peers = connections_->begin(number_, "barrier", 4);
        check(ncclAllReduce(own_memory_.data(), own_memory_.data(), 1, ncclInt32, ncclSum, peers, cuda.state().stream));
        connections_->wait(cuda, forever);
    }

    void wait(Stream& stream, Seconds patience) override { connections_->wait(gpu(stream), patience); }

    std::int64_t workspace_bytes(Collective collective, std::int64_t whole_bytes) const override {
        const bool reduces = collective == Collective::all_reduce || collective == Collective::reduce_scatter;
        return reduces ? tree_reduce_workspace_bytes(whole_bytes, size_, BackEnd::nccl) : 0;
    }

    void use_workspace(View workspace) override {
        if (size_ == 1) return;
        const std::int64_t slice = workspace.bytes() / (size_ - 1) / alignment_bytes * alignment_bytes;
        if (slice < small_slice) return; // what is there already is better
        slice_limit_ = slice;
        workspace_ = bytes_at(workspace);
    }

private:
    // Sends to and receives from other ranks that run at once: NCCL starts them when the group ends. What is empty, or
    // for this rank itself, is left out.
    class Exchange {
    public:
        Exchange(NcclCommunicator& owner, CudaStream& stream, ncclComm_t peers)
            : owner_(owner), stream_(stream.state().stream), peers_(peers) {
            owner_.check(ncclGroupStart());
        }
        ~Exchange() {
            if (!ended_) ncclGroupEnd();
        }
        Exchange(const Exchange&) = delete;
        Exchange& operator=(const Exchange&) = delete;

        void send(const std::byte* data, std::int64_t bytes, int to) {
            if (bytes == 0 || to == owner_.rank_) return;
            check(ncclSend(data, static_cast<std::size_t>(bytes), ncclInt8, to, peers_, stream_));
            owner_.bytes_sent_ += bytes;
        }
        void receive(std::byte* data, std::int64_t bytes, int from) {
            if (bytes == 0 || from == owner_.rank_) return;
            check(ncclRecv(data, static_cast<std::size_t>(bytes), ncclInt8, from, peers_, stream_));
        }
        void finish() {
            ended_ = true;
            owner_.check(ncclGroupEnd());
        }

    private:
        void check(ncclResult_t result) {
            if (result == ncclSuccess) return;
            ended_ = true; // before the communicator is: it would go when the group ends
            ncclGroupEnd();
            owner_.check(result);
        }

        NcclCommunicator& owner_;
        cudaStream_t stream_;
        ncclComm_t peers_;
        bool ended_ = false;
    };

    void check(ncclResult_t result) { connections_->check(number_, result); }

    // Sums of integers are the same in any order. A maximum by NCCL would lose a NaN.
    bool by_library(DType dtype, Reduction reduction) const {
        return dtype == DType::i32 || (order_ == SumOrder::library && reduction == Reduction::sum);
    }

    void gather_equal(CudaStream& stream, ncclComm_t peers, const std::byte* part, std::byte* whole,
                      std::int64_t bytes) {
        check(ncclAllGather(part, whole, static_cast<std::size_t>(bytes), ncclInt8, peers, stream.state().stream));
        bytes_sent_ += bytes * (size_ - 1);
    }

    void reduce(CudaStream& stream, ncclComm_t peers, const View& buffer, Reduction reduction,
                const SummationTree& tree) {
        for (std::int64_t at = 0; size_ > 1 && at < buffer.bytes(); at += slice_limit_ * size_) {
            std::byte* piece = bytes_at(buffer) + at;
            const std::int64_t bytes = std::min(slice_limit_ * size_, buffer.bytes() - at);
            const Range own = slice_bytes(bytes, size_, rank_);
            Exchange slices(*this, stream, peers);
            for (int peer = 0; peer < size_; ++peer) {
                const Range theirs = slice_bytes(bytes, size_, peer);
                slices.send(piece + theirs.begin, theirs.size(), peer);
                slices.receive(incoming(peer), own.size(), peer);
            }
            slices.finish();
            combine_slice(stream, buffer.dtype, reduction, tree, piece + own.begin, own.size(), piece + own.begin);
            if (bytes % (alignment_bytes * size_) == 0) {
                gather_equal(stream, peers, piece + own.begin, piece, own.size());
                continue;
            }
            Exchange sums(*this, stream, peers);
            for (int peer = 0; peer < size_; ++peer) {
                const Range theirs = slice_bytes(bytes, size_, peer);
                sums.send(piece + own.begin, own.size(), peer);
                sums.receive(piece + theirs.begin, theirs.size(), peer);
            }
            sums.finish();
        }
    }

    // This rank's slice, and the other ranks' pieces that have arrived for it.
    void combine_slice(CudaStream& stream, DType dtype, Reduction reduction, const SummationTree& tree,
                       const std::byte* own, std::int64_t bytes, std::byte* to) {
        for (int peer = 0; peer < size_; ++peer)
            sources_[static_cast<std::size_t>(peer)] = peer == rank_ ? own : incoming(peer);
        kernels::combine(stream, dtype, reduction, tree.merges_after(), sources_, bytes / bytes_of(dtype), {&to, 1});
    }

    std::byte* incoming(int peer) const { return workspace_ + (peer < rank_ ? peer : peer - 1) * slice_limit_; }

    int rank_;
    int size_;
    SumOrder order_;
    SummationTree ranks_tree_; // of one leaf per rank
    std::vector<const std::byte*> sources_;
    Buffer own_memory_;    // one number for barriers, and a small workspace
    std::byte* workspace_; // one slice from each other rank
    std::int64_t slice_limit_ = small_slice;
    std::shared_ptr<NcclConnections> connections_;
    std::size_t number_;
};

} // namespace

std::vector<std::unique_ptr<Communicator>> make_nccl_communicators(const CudaStream& stream,
                                                                   const std::vector<AxisRanks>& axes, SumOrder order) {
    const auto connections = std::make_shared<NcclConnections>(stream);
    std::vector<std::unique_ptr<Communicator>> communicators;
    for (const AxisRanks& ranks : axes)
        communicators.push_back(std::make_unique<NcclCommunicator>(
            connections, connections->connect(ranks.axis, ranks.group), ranks.group, stream, order));
    return communicators;
}

} // namespace tessera
