// SPDX-License-Identifier: Apache-2.0
// Collectives by reading and writing the peers' memory between two barriers.
#include "parallel/communication/shared_memory.hpp"

#include "kernels/error.hpp"
#include "parallel/communication/cut.hpp"
#include "parallel/communication/meeting.hpp"
#include "parallel/communication/shared_region.hpp"
#include "parallel/communication/thread_mail.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <optional>

namespace tessera {
namespace {

constexpr std::int64_t staging_bytes = 256 << 10; // per rank: two fit into a core's second-level cache

class SharedMemoryCommunicator final : public Communicator {
public:
    // Processes. `area` holds, in each rank's window, its post and its staging area.
    SharedMemoryCommunicator(ProcessGroup group, std::unique_ptr<SharedRegion> area)
        : SharedMemoryCommunicator(group.rank(), posts_in(*area, group.size()), nullptr, nullptr) {
        for (int rank = 0; rank < size_; ++rank)
            staging_.push_back(area->window(rank) + align_up(sizeof(Post)));
        group_ = std::move(group);
        // Messages between a pipeline's stages, on other hosts perhaps, go on while this rank waits for its neighbours.
        meeting_.meanwhile([this] { group_->progress(); });
        area_ = std::move(area);
    }

    // Threads: a location is an address.
    SharedMemoryCommunicator(int rank, const std::vector<Post*>& posts, const std::atomic<bool>* failed,
                             ThreadMail* mail)
        : rank_(rank), size_(static_cast<int>(posts.size())), mail_(mail), meeting_(rank, posts, failed),
          ranks_tree_(size_, size_), peers_(posts.size()), sources_(posts.size()), targets_(posts.size()) {}

    static std::int64_t area_bytes() { return align_up(sizeof(Post)) + staging_bytes; }

    int rank() const override { return rank_; }
    int size() const override { return size_; }

    void all_reduce(Stream& stream, View buffer, Reduction reduction) override {
        CpuStream& cpu = cpu_stream(stream);
        const bool direct = enter(CollectiveCall::all_reduce, static_cast<int>(reduction), buffer, buffer);
        reduce(cpu, buffer, reduction, ranks_tree_, direct);
    }

    void tree_reduce(Stream& stream, View buffer, const SummationTree& tree) override {
        CpuStream& cpu = cpu_stream(stream);
        check_tree(buffer, tree, size_);
        const bool direct = enter(CollectiveCall::tree_reduce, tree.leaves(), buffer, buffer);
        reduce(cpu, buffer, Reduction::sum, tree, direct);
    }

    void all_gather(Stream& stream, ConstView part, View whole, const Parts& parts) override {
        cpu_stream(stream);
        check_part("all_gather", whole, part, parts.unit, size_, rank_);
        const Range own = part_bytes(whole, parts.unit, size_, rank_);
        const std::int64_t limit = enter(CollectiveCall::all_gather, 0, whole, part) ? whole.bytes() : staging_bytes;
        const std::int64_t largest = part_bytes(whole, parts.unit, size_, 0).size();
        for (std::int64_t at = 0; at < largest; at += limit) {
            stage(0, bytes_at(part) + at, piece_of(own, at, limit).size());
            exposed();
            for (int rank = 0; rank < size_; ++rank) {
                const Range piece = piece_of(part_bytes(whole, parts.unit, size_, rank), at, limit);
                copy_bytes(bytes_at(whole) + piece.begin, peers_[static_cast<std::size_t>(rank)], piece.size());
            }
            meeting_.barrier();
        }
        bytes_sent_ += own.size() * (size_ - 1);
    }

    void reduce_scatter(Stream& stream, ConstView whole, View part, const Parts& parts) override {
        CpuStream& cpu = cpu_stream(stream);
        check_part("reduce_scatter", whole, part, parts.unit, size_, rank_);
        if (parts.tree != nullptr) check_tree(whole, *parts.tree, size_);
        const SummationTree& tree = parts.tree != nullptr ? *parts.tree : ranks_tree_;
        const Range own = part_bytes(whole, parts.unit, size_, rank_);
        const bool direct = enter(CollectiveCall::reduce_scatter, 0, whole, whole);
        const std::int64_t limit = direct ? std::max<std::int64_t>(whole.bytes(), 1) : block_limit();
        const std::int64_t largest = part_bytes(whole, parts.unit, size_, 0).size();
        for (std::int64_t at = 0; at < largest; at += limit) {
            for (int rank = 0; rank < size_; ++rank) {
                const Range piece = piece_of(part_bytes(whole, parts.unit, size_, rank), at, limit);
                stage(rank * limit, bytes_at(whole) + piece.begin, piece.size());
            }
            exposed();
            const Range mine = piece_of(own, at, limit);
            std::byte* to = bytes_at(part) + at;
            combine_pieces(cpu, whole.dtype, Reduction::sum, tree, direct ? own.begin : rank_ * limit, mine.size(),
                           {&to, 1});
            meeting_.barrier();
        }
        bytes_sent_ += whole.bytes() - own.size();
    }

    void all_to_all(Stream& stream, ConstView send, View receive) override {
        cpu_stream(stream);
        check_blocks(send, receive, size_);
        const std::int64_t block = send.bytes() / size_;
        const bool direct = enter(CollectiveCall::all_to_all, 0, send, send);
        const std::int64_t limit = direct ? std::max<std::int64_t>(block, 1) : block_limit();
        for (std::int64_t at = 0; at < block; at += limit) {
            const std::int64_t bytes = std::min(limit, block - at);
            for (int rank = 0; rank < size_; ++rank)
                stage(rank * limit, bytes_at(send) + rank * block + at, bytes);
            exposed();
            for (int rank = 0; rank < size_; ++rank)
                copy_bytes(bytes_at(receive) + rank * block + at,
                           peers_[static_cast<std::size_t>(rank)] + rank_ * limit, bytes);
            meeting_.barrier();
        }
        bytes_sent_ += block * (size_ - 1);
    }

    void all_to_allv(Stream& stream, ConstView send, View receive, std::span<const std::int64_t> bytes) override {
        cpu_stream(stream);
        check_uneven_blocks(send, receive, bytes, size_, rank_);
        const UnevenBlocks blocks(bytes, size_);
        const std::int64_t most = blocks.most_sent();
        // What the ranks must agree on is their sizes; `send` is as long as this rank's own.
        const Location location = locate(send);
        meeting_.enter({CollectiveCall::all_to_allv, most, 0, location});
        const std::int64_t limit = expose() ? most : staging_bytes;
        for (std::int64_t at = 0; at < most; at += limit) {
            const Range staged = piece_of({0, send.bytes()}, at, limit);
            stage(0, bytes_at(send) + staged.begin, staged.size());
            exposed();
            for (int rank = 0; rank < size_; ++rank)
                copy_staged(blocks.in_sent(rank, rank_), {at, at + limit}, peers_[static_cast<std::size_t>(rank)],
                            bytes_at(receive) + blocks.in_received(rank, rank_).begin);
            meeting_.barrier();
        }
        bytes_sent_ += send.bytes();
    }

    void broadcast(Stream& stream, View buffer, int root) override {
        cpu_stream(stream);
        check_rank("broadcast", root, size_);
        const std::int64_t limit =
            enter(CollectiveCall::broadcast, root, buffer, buffer) ? buffer.bytes() : staging_bytes;
        for (std::int64_t at = 0; at < buffer.bytes(); at += limit) {
            const std::int64_t bytes = std::min(limit, buffer.bytes() - at);
            if (rank_ == root) stage(0, bytes_at(buffer) + at, bytes);
            exposed();
            if (rank_ != root) copy_bytes(bytes_at(buffer) + at, peers_[static_cast<std::size_t>(root)], bytes);
            meeting_.barrier();
        }
        if (rank_ == root) bytes_sent_ += buffer.bytes() * (size_ - 1);
    }

    void send(Stream& stream, ConstView view, int to) override {
        cpu_stream(stream);
        check_rank("send", to, size_);
        const Location location = locate(view);
        const bool direct = location.region != Location::nowhere;
        const std::int64_t limit = direct ? view.bytes() : staging_bytes;
        for (std::int64_t at = 0; at < view.bytes(); at += limit) {
            const std::int64_t bytes = std::min(limit, view.bytes() - at);
            if (!direct) copy_bytes(staging_[static_cast<std::size_t>(rank_)], bytes_at(view) + at, bytes);
            meeting_.post(to, location, bytes);
        }
        bytes_sent_ += view.bytes();
    }

    void receive(Stream& stream, View view, int from) override {
        cpu_stream(stream);
        check_rank("receive", from, size_);
        for (std::int64_t at = 0; at < view.bytes();) {
            const Post& post = meeting_.await(from);
            if (post.mail_bytes > view.bytes() - at)
                throw InternalError(fmt::format("receive: rank {} sends {} bytes, rank {} expects {}", from,
                                                at + post.mail_bytes, rank_, view.bytes()));
            const bool direct = post.mail.region != Location::nowhere;
            copy_bytes(bytes_at(view) + at, direct ? reach(from, post.mail) : staging_[static_cast<std::size_t>(from)],
                       post.mail_bytes);
            at += post.mail_bytes;
            meeting_.taken(from);
        }
    }

    // Between processes by MPI, which has the queues that this needs.
    Ticket post(Stream& stream, ConstView view, int to, int channel) override {
        cpu_stream(stream);
        check_rank("post", to, size_);
        bytes_sent_ += view.bytes();
        if (mail_ != nullptr) return mail_->post(rank_, view, to, channel);
        return group_->post({const_cast<std::byte*>(bytes_at(view)), view.bytes(), to}, channel);
    }

    Ticket expect(Stream& stream, View view, int from, int channel) override {
        cpu_stream(stream);
        check_rank("expect", from, size_);
        if (mail_ != nullptr) return mail_->expect(from, view, rank_, channel);
        return group_->expect({bytes_at(view), view.bytes(), from}, channel);
    }

    void finish(Ticket ticket) override { mail_ != nullptr ? mail_->finish(ticket) : group_->finish(ticket); }

    void shift(Stream& stream, ConstView send, View receive) override {
        cpu_stream(stream);
        check_shift(send, receive);
        const auto before = static_cast<std::size_t>((rank_ + size_ - 1) % size_);
        const std::int64_t limit = enter(CollectiveCall::shift, 0, send, send) ? send.bytes() : staging_bytes;
        for (std::int64_t at = 0; at < send.bytes(); at += limit) {
            const std::int64_t bytes = std::min(limit, send.bytes() - at);
            stage(0, bytes_at(send) + at, bytes);
            exposed();
            copy_bytes(bytes_at(receive) + at, peers_[before], bytes);
            meeting_.barrier();
        }
        if (size_ > 1) bytes_sent_ += send.bytes();
    }

    void barrier(Stream& stream) override {
        cpu_stream(stream);
        meeting_.enter({CollectiveCall::barrier, 0, 0, {}});
    }

    Buffer allocate(const Stream& stream, std::int64_t bytes) override {
        cpu_stream(stream);
        meeting_.enter({CollectiveCall::allocate, 0, 0, {}});
        if (!group_) return Buffer(bytes);
        auto owner = std::make_unique<std::shared_ptr<SharedRegion>>(std::make_shared<SharedRegion>(*group_, bytes));
        regions_.push_back(*owner);
        std::byte* memory = (*owner)->window(rank_);
        return Buffer(
            memory, bytes, [](void* context) { delete static_cast<std::shared_ptr<SharedRegion>*>(context); },
            owner.release());
    }

private:
    static std::vector<Post*> posts_in(const SharedRegion& area, int ranks) {
        std::vector<Post*> posts;
        for (int rank = 0; rank < ranks; ++rank)
            posts.push_back(reinterpret_cast<Post*>(area.window(rank))); // zeroed memory is a post
        return posts;
    }

    Location locate(const ConstView& view) const {
        const std::byte* data = bytes_at(view);
        if (view.bytes() == 0) return {Location::nothing, 0};
        if (!group_) return {0, static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(data))};
        for (std::size_t i = 0; i < regions_.size(); ++i) {
            const std::shared_ptr<SharedRegion> region = regions_[i].lock();
            if (!region) continue;
            const std::ptrdiff_t offset = data - region->window(rank_);
            if (offset >= 0 && offset + view.bytes() <= region->window_bytes()) return {static_cast<int>(i), offset};
        }
        return {};
    }

    std::byte* reach(int rank, Location location) const {
        if (location.region == Location::nothing) return nullptr;
        if (!group_) return reinterpret_cast<std::byte*>(static_cast<std::intptr_t>(location.offset));
        const std::shared_ptr<SharedRegion> region = regions_[static_cast<std::size_t>(location.region)].lock();
        if (!region)
            throw InternalError(fmt::format("rank {} uses a shared buffer that rank {} has freed", rank, rank_));
        return region->window(rank) + location.offset;
    }

    // Opens a collective in which others read, or write, `exposed`. Returns whether all can do so where it lies; if
    // not, it goes through the staging areas in pieces. The answer is the same on every rank.
    bool enter(CollectiveCall call, std::int64_t detail, const ConstView& whole, const ConstView& exposed) {
        const Location location = locate(exposed);
        meeting_.enter({call, detail, whole.bytes(), location});
        return expose();
    }

    bool expose() {
        direct_ = true;
        for (int rank = 0; rank < size_; ++rank)
            direct_ = direct_ && meeting_.entry(rank).location.region != Location::nowhere;
        for (int rank = 0; rank < size_ && direct_; ++rank)
            peers_[static_cast<std::size_t>(rank)] = reach(rank, meeting_.entry(rank).location);
        if (!direct_) peers_ = staging_;
        return direct_;
    }

    void stage(std::int64_t offset, const std::byte* from, std::int64_t bytes) {
        if (!direct_) copy_bytes(staging_[static_cast<std::size_t>(rank_)] + offset, from, bytes);
    }

    // What of a block lies in the piece that a peer exposes.
    static void copy_staged(Range block, Range piece, const std::byte* exposed, std::byte* to) {
        const Range part{std::max(block.begin, piece.begin), std::min(block.end, piece.end)};
        if (part.size() > 0)
            copy_bytes(to + (part.begin - block.begin), exposed + (part.begin - piece.begin), part.size());
    }

    // Waits until what was staged is there; what lies within reach has been there since enter().
    void exposed() {
        if (!direct_) meeting_.barrier();
    }

    std::int64_t block_limit() const { return staging_bytes / size_ / alignment_bytes * alignment_bytes; }

    void reduce(CpuStream& stream, const View& buffer, Reduction reduction, const SummationTree& tree, bool direct) {
        const std::int64_t limit = direct ? buffer.bytes() : staging_bytes;
        for (std::int64_t at = 0; at < buffer.bytes(); at += limit) {
            const std::int64_t bytes = std::min(limit, buffer.bytes() - at);
            stage(0, bytes_at(buffer) + at, bytes);
            exposed();
            const Range slice = slice_bytes(bytes, size_, rank_);
            // The owner of a slice writes it to every rank: cheaper than a barrier and a copy by each.
            for (std::size_t rank = 0; rank < peers_.size(); ++rank)
                targets_[rank] = peers_[rank] + slice.begin;
            combine_pieces(stream, buffer.dtype, reduction, tree, slice.begin, slice.size(), targets_);
            meeting_.barrier();
            if (!direct_) copy_bytes(bytes_at(buffer) + at, staging_[static_cast<std::size_t>(rank_)], bytes);
            bytes_sent_ += bytes - slice.size() + slice.size() * (size_ - 1);
        }
    }

    // The pieces that begin `offset` bytes into what each rank exposes.
    void combine_pieces(CpuStream& stream, DType dtype, Reduction reduction, const SummationTree& tree,
                        std::int64_t offset, std::int64_t bytes, std::span<std::byte* const> targets) {
        if (bytes == 0) return;
        for (std::size_t rank = 0; rank < peers_.size(); ++rank)
            sources_[rank] = peers_[rank] + offset;
        kernels::combine(stream, dtype, reduction, tree.merges_after(), sources_, bytes / bytes_of(dtype), targets);
    }

    int rank_;
    int size_;
    std::optional<ProcessGroup> group_;  // none: ranks are threads
    ThreadMail* mail_ = nullptr;         // of threads
    std::unique_ptr<SharedRegion> area_; // posts and staging areas of processes
    Meeting meeting_;
    SummationTree ranks_tree_;                         // of one leaf per rank
    std::vector<std::weak_ptr<SharedRegion>> regions_; // one for each allocate(), in the same order on every rank
    std::vector<std::byte*> staging_;
    bool direct_ = false;
    std::vector<std::byte*> peers_; // what each rank exposes in the collective under way
    std::vector<const std::byte*> sources_;
    std::vector<std::byte*> targets_;
};

} // namespace

std::unique_ptr<Communicator> make_shared_memory_communicator(ProcessGroup group) {
    auto area = std::make_unique<SharedRegion>(group, SharedMemoryCommunicator::area_bytes());
    group.barrier(); // nobody writes a post before all windows are mapped and zeroed
    return std::make_unique<SharedMemoryCommunicator>(std::move(group), std::move(area));
}

struct ThreadRanks::Board {
    explicit Board(int ranks) : posts(static_cast<std::size_t>(ranks)) {}
    std::vector<Post> posts;
    std::atomic<bool> failed = false;
    ThreadMail mail{failed};
};

ThreadRanks::ThreadRanks(int ranks) : board_(std::make_unique<Board>(ranks)) {
    std::vector<Post*> posts;
    for (Post& post : board_->posts)
        posts.push_back(&post);
    for (int rank = 0; rank < ranks; ++rank)
        communicators_.push_back(
            std::make_unique<SharedMemoryCommunicator>(rank, posts, &board_->failed, &board_->mail));
}

ThreadRanks::~ThreadRanks() = default;

void ThreadRanks::fail() { board_->failed = true; }

} // namespace tessera
