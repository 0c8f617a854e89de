// SPDX-License-Identifier: Apache-2.0
// Every collective of a communicator against a plain computation that each rank does for itself. Used with threads and
// under mpirun.
#pragma once

#include "kernels/error.hpp"
#include "tests/parallel/collective_data.hpp"

#include <gtest/gtest.h>
#include <limits>

namespace tessera::test {

template <class T> void check_all_reduce_of(const Arrangement& ranks, std::int64_t size, Reduction reduction) {
    Communicator& all = ranks.communicator;
    Tensor<T> tensor(ranks, Shape{size}, size % 3);
    tensor.fill(size, all.rank());
    all.all_reduce(ranks.stream, tensor.hand_over(), reduction);
    EXPECT_EQ(tensor.wrong([&](std::int64_t i) { return expected_reduction<T>(reduction, size, all.size(), i); }), 0)
        << ranks.name << ", rank " << all.rank() << ", " << size << " of " << name_of(dtype_of<T>());
}

inline void check_all_reduce(const Arrangement& ranks) {
    for (const std::int64_t size : sizes)
        for (const Reduction reduction : {Reduction::sum, Reduction::max, Reduction::min}) {
            check_all_reduce_of<float>(ranks, size, reduction);
            check_all_reduce_of<BFloat16>(ranks, size, reduction);
            check_all_reduce_of<std::int32_t>(ranks, size, reduction);
        }
    check_all_reduce_of<BFloat16>(ranks, large_size, Reduction::sum);

    // A NaN on any rank, in any operation, reaches all ranks.
    Communicator& all = ranks.communicator;
    for (int rank = 0; rank < all.size(); ++rank)
        for (const Reduction reduction : {Reduction::sum, Reduction::max, Reduction::min}) {
            Tensor<float> tensor(ranks, Shape{3});
            if (all.rank() == rank) tensor.data[1] = std::numeric_limits<float>::quiet_NaN();
            all.all_reduce(ranks.stream, tensor.hand_over(), reduction);
            tensor.fetch();
            EXPECT_TRUE(std::isnan(tensor.data[1]) && tensor.data[0] == 0) << ranks.name;
        }
}

// Ranks sum their shares of `leaves` micro-batches; the reduction must end with the bits of one rank's sum of all.
inline void check_tree_reduce_of(const Arrangement& ranks, std::int64_t size, std::int64_t leaves) {
    Communicator& all = ranks.communicator;
    const SummationTree tree(leaves, all.size());
    const Range share = tree.share(all.rank());
    const auto sum = [&](Range range, std::int64_t i) {
        return tree_combine<float>(
            range.begin, range.size(), [&](std::int64_t leaf) { return value<float>(size, leaf, i); }, std::plus<>());
    };
    Tensor<float> tensor(ranks, Shape{size});
    for (std::int64_t i = 0; i < size; ++i)
        tensor.data[i] = sum(share, i);
    all.tree_reduce(ranks.stream, tensor.hand_over(), tree);
    EXPECT_EQ(tensor.wrong([&](std::int64_t i) {
        return sum({0, leaves}, i);
    }),
              0)
        << ranks.name << ", rank " << all.rank() << ", " << size << " sums of " << leaves << " leaves";
}

inline void check_tree_reduce(const Arrangement& ranks) {
    Stream two_threads = CpuStream(2);
    const Arrangement threaded{ranks.name + ", threaded", ranks.communicator, ranks.allocate, two_threads};
    for (const std::int64_t size : sizes)
        for (const std::int64_t leaves : {5, 7, 8, 12})
            check_tree_reduce_of(ranks.on_cpu() && leaves % 2 != 0 ? threaded : ranks, size, leaves);
    check_tree_reduce_of(ranks, large_size, 8);
}

template <class T>
void check_all_gather_of(const Arrangement& ranks, std::int64_t rows, bool in_place, std::int64_t unit = 1) {
    Communicator& all = ranks.communicator;
    const Range own = shard_range_in_units(rows, unit, all.size(), all.rank());
    Tensor<T> whole(ranks, Shape{rows, 3});
    Tensor<T> apart(ranks, Shape{own.size(), 3});
    T* const data = in_place ? whole.data + own.begin * 3 : apart.data;
    for (std::int64_t i = 0; i < apart.shape.count(); ++i)
        data[i] = value<T>(rows, 0, own.begin * 3 + i);
    const View part = in_place ? whole.part(own.begin * 3, apart.shape) : apart.hand_over();
    all.all_gather(ranks.stream, part, whole.hand_over(), {.unit = unit});
    EXPECT_EQ(whole.wrong([&](std::int64_t i) { return value<T>(rows, 0, i); }), 0)
        << ranks.name << ", rank " << all.rank() << ", " << rows << " rows of " << name_of(dtype_of<T>());
}

inline void check_all_gather(const Arrangement& ranks) {
    for (const std::int64_t rows : sizes)
        for (const bool in_place : {false, true}) {
            check_all_gather_of<float>(ranks, rows, in_place);
            check_all_gather_of<BFloat16>(ranks, rows, in_place);
            check_all_gather_of<std::int32_t>(ranks, rows, in_place);
            for (const std::int64_t unit : {2, 5, 64})
                check_all_gather_of<float>(ranks, rows, in_place, unit);
        }
    check_all_gather_of<float>(ranks, large_size / 3, true);
}

// Two gatherings under way, and another collective meanwhile.
inline void check_begun_gatherings(const Arrangement& ranks, std::int64_t rows) {
    Communicator& all = ranks.communicator;
    std::vector<Tensor<float>> parts, wholes;
    parts.reserve(2);
    wholes.reserve(2);
    Tensor<float> sum(ranks, Shape{rows});
    sum.fill(rows, all.rank());
    std::vector<Communicator::Ticket> tickets;
    for (std::int64_t seed = 0; seed < 2; ++seed) {
        const Range own = shard_range(rows, all.size(), all.rank());
        Tensor<float>& part = parts.emplace_back(ranks, Shape{own.size()});
        for (std::int64_t i = 0; i < own.size(); ++i)
            part.data[i] = value<float>(rows + seed, 0, own.begin + i);
        tickets.push_back(
            all.begin_all_gather(ranks.stream, part.hand_over(), wholes.emplace_back(ranks, Shape{rows}).hand_over()));
        all.progress();
    }
    all.all_reduce(ranks.stream, sum.hand_over(), Reduction::sum);
    for (std::size_t i = 0; i < tickets.size(); ++i) {
        all.finish(tickets[i]);
        const auto seed = rows + static_cast<std::int64_t>(i);
        EXPECT_EQ(wholes[i].wrong([&](std::int64_t at) { return value<float>(seed, 0, at); }), 0)
            << ranks.name << ", rank " << all.rank() << ", gathering " << i << " of " << rows << " rows";
    }
    const auto expected = [&](std::int64_t i) {
        return expected_reduction<float>(Reduction::sum, rows, all.size(), i);
    };
    EXPECT_EQ(sum.wrong(expected), 0) << ranks.name;
}

template <class T> void check_reduce_scatter_of(const Arrangement& ranks, std::int64_t rows, bool in_place) {
    Communicator& all = ranks.communicator;
    const Range own = shard_range(rows, all.size(), all.rank());
    Tensor<T> whole(ranks, Shape{rows, 3});
    Tensor<T> apart(ranks, Shape{own.size(), 3});
    whole.fill(rows, all.rank());
    all.reduce_scatter(ranks.stream, whole.hand_over(),
                       in_place ? whole.part(own.begin * 3, apart.shape) : apart.view());
    whole.fetch();
    apart.fetch();
    const T* const part = in_place ? whole.data + own.begin * 3 : apart.data;
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < apart.shape.count(); ++i)
        wrong += same_bits(part[i], expected_reduction<T>(Reduction::sum, rows, all.size(), own.begin * 3 + i)) ? 0 : 1;
    if (!in_place) wrong += whole.wrong([&](std::int64_t i) { return value<T>(rows, all.rank(), i); });
    EXPECT_EQ(wrong, 0) << ranks.name << ", rank " << all.rank() << ", " << rows << " rows of "
                        << name_of(dtype_of<T>());
}

// In units of rows, in the order of a tree that is not that of the ranks.
inline void check_tree_reduce_scatter(const Arrangement& ranks, std::int64_t rows, std::int64_t unit) {
    Communicator& all = ranks.communicator;
    const SummationTree tree(2 * all.size() + 1, all.size());
    const Range own = shard_range_in_units(rows, unit, all.size(), all.rank());
    Tensor<float> whole(ranks, Shape{rows, 3}), reduced(ranks, Shape{rows, 3}), part(ranks, Shape{own.size(), 3});
    whole.fill(rows, all.rank());
    reduced.fill(rows, all.rank());
    all.reduce_scatter(ranks.stream, whole.hand_over(), part.view(), {.unit = unit, .tree = &tree});
    all.tree_reduce(ranks.stream, reduced.hand_over(), tree);
    part.fetch();
    reduced.fetch();
    for (std::int64_t i = 0; i < own.size() * 3; ++i)
        ASSERT_TRUE(same_bits(part.data[i], reduced.data[own.begin * 3 + i]))
            << ranks.name << ", rank " << all.rank() << ", " << rows << " rows in units of " << unit;
}

inline void check_reduce_scatter(const Arrangement& ranks) {
    for (const std::int64_t rows : sizes)
        for (const std::int64_t unit : {1, 7})
            check_tree_reduce_scatter(ranks, rows, unit);
    for (const std::int64_t rows : sizes)
        for (const bool in_place : {false, true}) {
            check_reduce_scatter_of<float>(ranks, rows, in_place);
            check_reduce_scatter_of<BFloat16>(ranks, rows, in_place);
            check_reduce_scatter_of<std::int32_t>(ranks, rows, in_place);
        }
    check_reduce_scatter_of<float>(ranks, large_size / 3, false);
}

template <class T> void check_all_to_all_of(const Arrangement& ranks, std::int64_t block_rows) {
    Communicator& all = ranks.communicator;
    const std::int64_t block = block_rows * 3;
    Tensor<T> send(ranks, Shape{block_rows * all.size(), 3});
    Tensor<T> receive(ranks, send.shape);
    send.fill(block, all.rank());
    all.all_to_all(ranks.stream, send.hand_over(), receive.view());
    const auto expected = [&](std::int64_t i) { return value<T>(block, i / block, all.rank() * block + i % block); };
    EXPECT_EQ(receive.wrong(expected), 0) << ranks.name << ", rank " << all.rank() << ", blocks of " << block;
}

inline void check_all_to_all(const Arrangement& ranks) {
    for (const std::int64_t rows : sizes) {
        check_all_to_all_of<float>(ranks, rows);
        check_all_to_all_of<BFloat16>(ranks, rows);
    }
    check_all_to_all_of<std::int32_t>(ranks, large_size / 3 / ranks.communicator.size());
}

// Rank i sends (3 i + 5 j) % 4 * unit elements to rank j: none to some.
inline void check_all_to_allv_of(const Arrangement& ranks, std::int64_t unit) {
    Communicator& all = ranks.communicator;
    const int size = all.size();
    const auto count = [&](int from, int to) { return from == to ? 0 : (3 * from + 5 * to) % 4 * unit; };
    std::vector<std::int64_t> bytes;
    std::int64_t sent = 0, received = 0;
    for (int from = 0; from < size; ++from)
        for (int to = 0; to < size; ++to) {
            bytes.push_back(count(from, to) * 4);
            if (from == all.rank()) sent += count(from, to);
            if (to == all.rank()) received += count(from, to);
        }
    const auto number = [&](int from, int to, std::int64_t i) { return value<float>(unit, from * size + to, i); };
    Tensor<float> send(ranks, Shape{sent}), receive(ranks, Shape{received});
    std::int64_t at = 0;
    for (int to = 0; to < size; ++to)
        for (std::int64_t i = 0; i < count(all.rank(), to); ++i)
            send.data[at++] = number(all.rank(), to, i);
    const std::int64_t before = all.bytes_sent();
    all.all_to_allv(ranks.stream, send.hand_over(), receive.view(), bytes);
    EXPECT_EQ(all.bytes_sent() - before, sent * 4);
    const auto expected = [&](std::int64_t i) {
        int from = 0;
        for (; i >= count(from, all.rank()); ++from)
            i -= count(from, all.rank());
        return number(from, all.rank(), i);
    };
    EXPECT_EQ(receive.wrong(expected), 0) << ranks.name << ", rank " << all.rank() << ", units of " << unit;
}

inline void check_all_to_allv(const Arrangement& ranks) {
    for (const std::int64_t unit : {std::int64_t{0}, std::int64_t{1}, std::int64_t{1000}, large_size / 8})
        check_all_to_allv_of(ranks, unit);
}

template <class T> void check_broadcast_of(const Arrangement& ranks, std::int64_t size, int root) {
    Tensor<T> tensor(ranks, Shape{size});
    tensor.fill(size, ranks.communicator.rank());
    ranks.communicator.broadcast(ranks.stream, tensor.hand_over(), root);
    EXPECT_EQ(tensor.wrong([&](std::int64_t i) { return value<T>(size, root, i); }), 0)
        << ranks.name << ", rank " << ranks.communicator.rank() << ", " << size << " from " << root;
}

inline void check_broadcast(const Arrangement& ranks) {
    for (int root = 0; root < ranks.communicator.size(); ++root) {
        for (const std::int64_t size : sizes) {
            check_broadcast_of<float>(ranks, size, root);
            check_broadcast_of<BFloat16>(ranks, size, root);
            check_broadcast_of<std::int32_t>(ranks, size, root);
        }
        check_broadcast_of<float>(ranks, large_size, root);
    }
}

// A chain: each rank passes on what it received, two messages at a time, which must not overtake each other.
inline void check_send_and_receive(const Arrangement& ranks) {
    Stream& stream = ranks.stream;
    Communicator& all = ranks.communicator;
    for (const std::int64_t size : {std::int64_t{0}, std::int64_t{1}, std::int64_t{1000}, large_size}) {
        Tensor<float> first(ranks, Shape{size}), second(ranks, Shape{size});
        if (all.rank() == 0) {
            first.fill(size, 0);
            second.fill(size, 1);
            first.hand_over();
            second.hand_over();
        } else {
            all.receive(stream, first.view(), all.rank() - 1);
            all.receive(stream, second.view(), all.rank() - 1);
        }
        if (all.rank() + 1 < all.size()) {
            all.send(stream, first.view(), all.rank() + 1);
            all.send(stream, second.view(), all.rank() + 1);
        }
        EXPECT_EQ(first.wrong([&](std::int64_t i) { return value<float>(size, 0, i); }), 0) << ranks.name;
        EXPECT_EQ(second.wrong([&](std::int64_t i) { return value<float>(size, 1, i); }), 0) << ranks.name;
    }
    all.barrier(stream);
}

// Around the ring and home again.
template <class T> void check_shift_of(const Arrangement& ranks, std::int64_t size) {
    Communicator& all = ranks.communicator;
    Tensor<T> one(ranks, Shape{size}, size % 3), other(ranks, Shape{size}, size % 2);
    one.fill(size, all.rank());
    one.hand_over();
    for (int step = 1; step <= all.size(); ++step) {
        const Tensor<T>&from = step % 2 == 1 ? one : other, &to = step % 2 == 1 ? other : one;
        all.shift(ranks.stream, from.view(), to.view());
        const int sender = (all.rank() - step + all.size()) % all.size();
        EXPECT_EQ(to.wrong([&](std::int64_t i) { return value<T>(size, sender, i); }), 0)
            << ranks.name << ", rank " << all.rank() << ", " << size << " after " << step << " steps";
    }
}

inline void check_shift(const Arrangement& ranks) {
    for (const std::int64_t size : sizes) {
        check_shift_of<float>(ranks, size);
        check_shift_of<BFloat16>(ranks, size);
    }
    check_shift_of<float>(ranks, large_size);
}

// Where sizes divide evenly, no rank sends a byte more than the lower bound.
inline void check_bytes_sent(const Arrangement& ranks) {
    Stream& stream = ranks.stream;
    Communicator& all = ranks.communicator;
    const std::int64_t bytes = 64 * all.size() * all.size() * 40;
    Tensor<float> whole(ranks, Shape{bytes / 4}), other(ranks, Shape{bytes / 4}),
        part(ranks, Shape{bytes / 4 / all.size()});
    const auto sent = [&](const std::function<void()>& call) {
        const std::int64_t before = all.bytes_sent();
        call();
        return all.bytes_sent() - before;
    };
    EXPECT_EQ(sent([&] { all.all_reduce(stream, whole.view(), Reduction::sum); }),
              bytes_sent(Collective::all_reduce, bytes, all.size()))
        << ranks.name;
    EXPECT_EQ(sent([&] { all.tree_reduce(stream, whole.view(), SummationTree(all.size(), all.size())); }),
              bytes_sent(Collective::all_reduce, bytes, all.size()))
        << ranks.name;
    EXPECT_EQ(sent([&] { all.finish(all.begin_all_gather(stream, part.view(), whole.view())); }),
              bytes_sent(Collective::all_gather, bytes, all.size()));
    EXPECT_EQ(sent([&] { all.all_gather(stream, part.view(), whole.view()); }),
              bytes_sent(Collective::all_gather, bytes, all.size()))
        << ranks.name;
    EXPECT_EQ(sent([&] { all.reduce_scatter(stream, whole.view(), part.view()); }),
              bytes_sent(Collective::reduce_scatter, bytes, all.size()))
        << ranks.name;
    EXPECT_EQ(sent([&] { all.all_to_all(stream, whole.view(), other.view()); }),
              bytes_sent(Collective::all_to_all, bytes * all.size(), all.size()))
        << ranks.name;
    EXPECT_EQ(sent([&] { all.shift(stream, whole.view(), other.view()); }), all.size() == 1 ? 0 : bytes) << ranks.name;
    const std::int64_t from_root = sent([&] { all.broadcast(stream, whole.view(), 0); });
    EXPECT_EQ(from_root, all.rank() == 0 ? bytes_sent(Collective::broadcast, bytes, all.size()) * all.size() : 0)
        << ranks.name;
}

inline void check_refusals(const Arrangement& ranks) {
    Stream& stream = ranks.stream;
    Communicator& all = ranks.communicator;
    Tensor<float> whole(ranks, Shape{all.size() * 2});
    Tensor<BFloat16> half(ranks, Shape{4});
    EXPECT_THROW(all.all_gather(stream, whole.view(), whole.part(0, Shape{all.size() * 2 + 1})), InternalError);
    EXPECT_THROW(all.reduce_scatter(stream, whole.view(), half.view()), InternalError);
    EXPECT_THROW(all.all_to_all(stream, whole.view(), half.view()), InternalError);
    EXPECT_THROW(all.shift(stream, whole.view(), half.view()), InternalError);
    const std::vector<std::int64_t> sizes_of_none(static_cast<std::size_t>(all.size() * all.size()));
    EXPECT_THROW(all.all_to_allv(stream, whole.view(), half.view(), sizes_of_none), InternalError);
    EXPECT_THROW(all.all_to_allv(stream, whole.view(), half.view(), {}), InternalError);
    EXPECT_THROW(all.broadcast(stream, whole.view(), all.size()), InternalError);
    EXPECT_THROW(all.tree_reduce(stream, half.view(), SummationTree(8, all.size())), InternalError);
    EXPECT_THROW(all.tree_reduce(stream, whole.view(), SummationTree(8, all.size() + 1)), InternalError);
    all.barrier(stream);
}

inline void check_all(const Arrangement& ranks) {
    check_all_reduce(ranks);
    check_tree_reduce(ranks);
    check_all_gather(ranks);
    for (const std::int64_t rows : {std::int64_t{1}, std::int64_t{1000}, large_size})
        check_begun_gatherings(ranks, rows);
    check_reduce_scatter(ranks);
    check_all_to_all(ranks);
    check_all_to_allv(ranks);
    check_broadcast(ranks);
    check_send_and_receive(ranks);
    check_shift(ranks);
    check_bytes_sent(ranks);
    check_refusals(ranks);
}

} // namespace tessera::test
