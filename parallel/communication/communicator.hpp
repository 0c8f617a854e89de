// SPDX-License-Identifier: Apache-2.0
// The ranks of one axis of the mesh (or all ranks), and how they exchange views in a stream's order.
#pragma once

#include "kernels/combine.hpp"
#include "kernels/memory.hpp"
#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"
#include "parallel/layout/redistribute.hpp"
#include "parallel/layout/summation_tree.hpp"

#include <chrono>
#include <cstdint>
#include <limits>
#include <span>

namespace tessera {

// In which order all_reduce and reduce_scatter add floating types on a GPU (run.reproducible): that of the tree below,
// or the library's own, which differs between rank counts and machines and rounds bf16 at every addition.
enum class SumOrder { tree, library };

using Seconds = std::chrono::duration<double>;
inline constexpr Seconds forever{std::numeric_limits<double>::infinity()};

// How a whole is cut into the parts of the ranks: along dim 0 by shard_range, in units of so many rows. Sums are added
// in the order of `tree`, which has as many ranks as the communicator; null: one leaf per rank.
struct Parts {
    std::int64_t unit = 1;
    const SummationTree* tree = nullptr;
};

// Every call is made by all ranks of the communicator, in the same order, with the same dtype and (but for uneven
// parts) the same sizes. A mismatch throws InternalError where the back end can see it. Views may be empty. Nothing is
// allocated but in `allocate`.
//
// On a CpuStream the views lie in host memory, and a call returns when this rank's result is there and its inputs may
// be written again. On a CudaStream they lie in the GPU's memory, and a call returns at once: its result is there for
// the stream's next work. All calls of a communicator are on one stream. A back end that is handed the other kind of
// stream throws InternalError.
//
// Sums have one order: floating types are added in a fixed tree over the ranks, so that the bits are the same on all
// ranks, in every run and on every back end. bf16 is accumulated in f32 and rounded once. i32 wraps around. A NaN in
// any rank makes a sum, max or min NaN. SumOrder::library, which GPUs know, gives this up but in tree_reduce.
class Communicator {
public:
    virtual ~Communicator() = default;
    Communicator(const Communicator&) = delete;
    Communicator& operator=(const Communicator&) = delete;

    virtual int rank() const = 0;
    virtual int size() const = 0;

    // In place: every rank ends with the whole result. The tree is that of one leaf per rank.
    virtual void all_reduce(Stream& stream, View buffer, Reduction reduction) = 0;

    // In place all-reduce (sum, f32) in the order of `tree`, which must have size() ranks: the reproducible reduction.
    virtual void tree_reduce(Stream& stream, View buffer, const SummationTree& tree) = 0;

    // `part` is this rank's part of `whole` and may lie at its place inside it.
    virtual void all_gather(Stream& stream, ConstView part, View whole, const Parts& parts = {}) = 0;

    // The sum over ranks of `whole`, of which each rank receives its part. `part` may lie at its place inside `whole`,
    // otherwise `whole` keeps its values. With a tree f32 is summed; without, the order is that of all_reduce.
    virtual void reduce_scatter(Stream& stream, ConstView whole, View part, const Parts& parts = {}) = 0;

    // Block i of `send` goes to rank i, where it becomes block number rank(). size() equal blocks along dim 0, which
    // must be divisible by size(). The views do not overlap.
    virtual void all_to_all(Stream& stream, ConstView send, View receive) = 0;

    // Rank i sends bytes[i * size() + j] bytes to rank j: blocks of any sizes, one behind the other in `send` and
    // `receive` by the other's rank. Every rank is given all sizes, and none sends to itself. The views do not overlap.
    // Ranks that send each other nothing exchange no message.
    virtual void all_to_allv(Stream& stream, ConstView send, View receive, std::span<const std::int64_t> bytes) = 0;

    virtual void broadcast(Stream& stream, View buffer, int root) = 0;

    // A send may wait until its receive has begun: two ranks that both send first can wait for ever.
    virtual void send(Stream& stream, ConstView view, int to) = 0;
    virtual void receive(Stream& stream, View view, int from) = 0;

    // A step around the ring of ranks: `send` goes to the next rank, the last one's to rank 0, and `receive` is what
    // the rank before sends. Equal sizes on all ranks; the views do not overlap.
    virtual void shift(Stream& stream, ConstView send, View receive) = 0;

    virtual void barrier(Stream& stream) = 0;

    // Messages that do not wait: post() begins to send and expect() to receive; the view of one must not change, and
    // that of the other not be read, before finish() of the ticket has returned. Between two ranks messages of one
    // channel keep their order, and no channel waits for another. A message whose receiver expects it is finished
    // whatever the receiver does meanwhile. InternalError on a back end without them.
    using Ticket = std::int64_t;
    virtual Ticket post(Stream& stream, ConstView view, int to, int channel);
    virtual Ticket expect(Stream& stream, View view, int from, int channel);
    virtual void finish(Ticket) {}

    // all_gather that need not have ended when this returns: `part` must not change, and `whole` neither be read nor
    // written, before finish() of the ticket, which all ranks call in the order in which they have begun. On back ends
    // that have nothing to wait for meanwhile it is all_gather; a GPU's stream has an order of its own.
    virtual Ticket begin_all_gather(Stream& stream, ConstView part, View whole, const Parts& parts = {});
    // Lets what has begun go on: who works meanwhile without a call to any communicator calls it now and then.
    virtual void progress() {}

    // Returns when the stream's work so far is done. A host that waits for work with collectives in it waits here: on a
    // GPU, where a rank that is gone would mean to wait for ever, the wait ends with SystemError, which names axis and
    // call, as soon as NCCL knows or `patience` is over. The communicators of the rank are unusable from then on.
    virtual void wait(Stream& stream, Seconds patience = forever);

    // Zeroed memory that this communicator reaches fastest (inside a host: a window that all its ranks map; else where
    // the stream works). Called by all ranks together; sizes may differ. The memory may outlive the communicator.
    // Throws SystemError on every rank when one cannot have it.
    virtual Buffer allocate(const Stream& stream, std::int64_t bytes);

    // Bytes beyond the views with which this collective, on `whole_bytes`, runs at full speed. Every collective also
    // works with less, in smaller pieces.
    virtual std::int64_t workspace_bytes(Collective, std::int64_t /*whole_bytes*/) const { return 0; }

    // Hands over memory for all later calls: of the same size on every rank, and alive as long as the communicator is
    // used.
    virtual void use_workspace(View /*workspace*/) {}

    // Bytes this rank has sent to others so far, by the algorithms' own count.
    std::int64_t bytes_sent() const { return bytes_sent_; }

protected:
    Communicator() = default;

    std::int64_t bytes_sent_ = 0;
};

// What carries the bytes of ranks that are not alone. The plan knows it beforehand, as groups.cpp will choose.
enum class BackEnd { shared_memory, mpi, nccl };
BackEnd back_end_for(const Stream& stream, bool shares_memory); // `shares_memory`: all ranks are on one host, which may

// What tree_reduce (and all_reduce) on `bytes` asks as workspace: nothing for one rank or in shared memory.
// Pure: the plan calls it without MPI and GPU.
std::int64_t tree_reduce_workspace_bytes(std::int64_t bytes, int ranks, BackEnd back_end);

} // namespace tessera
