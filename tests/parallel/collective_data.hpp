// SPDX-License-Identifier: Apache-2.0
// What the checks of collectives send and expect: all ranks' inputs are a function of (seed, rank, index), so the
// expected bits are known everywhere.
#pragma once

#include "kernels/copy.hpp"
#include "kernels/memory.hpp"
#include "parallel/communication/communicator.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

namespace tessera::test {

// A communicator, where its buffers come from, and the stream that both are for. Each check must be called by all
// ranks; a failure is GoogleTest's, and never makes a rank leave a collective out.
struct Arrangement {
    std::string name;
    Communicator& communicator;
    std::function<Buffer(std::int64_t bytes)> allocate;
    Stream& stream;
    bool on_cpu() const { return std::holds_alternative<CpuStream>(stream); }
};

inline constexpr std::int64_t sizes[] = {0, 1, 7, 64, 1000, 40'003};
inline constexpr std::int64_t large_size = 1'310'723; // 5 MB of f32

// Any bits: splitmix64.
inline std::uint64_t hash(std::int64_t seed, std::int64_t rank, std::int64_t index) {
    auto word = static_cast<std::uint64_t>(seed * 1'000'003 + rank) * 0x9e3779b97f4a7c15u +
                static_cast<std::uint64_t>(index) * 0xd1342543de82ef95u;
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
    word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
    return word ^ (word >> 31);
}

// Floats over 12 binary orders of magnitude and both signs, so that their sum depends on the order.
template <class T> T value(std::int64_t seed, std::int64_t rank, std::int64_t index) {
    const std::uint64_t bits = hash(seed, rank, index);
    if constexpr (std::is_same_v<T, std::int32_t>) return static_cast<std::int32_t>(bits);
    const auto mantissa = static_cast<float>(static_cast<std::int32_t>(bits)) * 0x1p-31f;
    const auto scale = std::bit_cast<float>(static_cast<std::uint32_t>(127 - 6 + (bits >> 40) % 12) << 23);
    return T(mantissa * scale);
}

template <class T> bool same_bits(T a, T b) { return std::memcmp(&a, &b, sizeof a) == 0; }

// A tensor in memory of the arrangement, off a cache line by `shift` elements. The host writes and reads `data`, which
// for a GPU is a copy that travels with hand_over() and fetch().
template <class T> struct Tensor {
    Tensor(const Arrangement& arrangement, const Shape& dims, std::int64_t shift = 0)
        : ranks(arrangement), buffer(ranks.allocate((dims.count() + shift) * std::int64_t{sizeof(T)})), shape(dims),
          there(reinterpret_cast<T*>(buffer.data()) + shift) {
        if (!ranks.on_cpu()) copy.resize(static_cast<std::size_t>(shape.count()));
        data = ranks.on_cpu() ? there : copy.data();
    }
    View view() const { return View(there, shape, dtype_of<T>()); }
    View part(std::int64_t first, const Shape& dims) const { return View(there + first, dims, dtype_of<T>()); }
    View hand_over() const {
        if (!ranks.on_cpu()) std::visit([&](auto& s) { kernels::upload(s, host(), view()); }, ranks.stream);
        return view();
    }
    void fetch() const {
        if (!ranks.on_cpu()) std::visit([&](auto& s) { kernels::download(s, view(), host()); }, ranks.stream);
    }
    void fill(std::int64_t seed, std::int64_t rank) {
        for (std::int64_t i = 0; i < shape.count(); ++i)
            data[i] = value<T>(seed, rank, i);
    }
    // The number of elements whose bits are not those of expected(i).
    template <class F> std::int64_t wrong(const F& expected) const {
        fetch();
        std::int64_t count = 0;
        for (std::int64_t i = 0; i < shape.count(); ++i)
            count += same_bits(data[i], expected(i)) ? 0 : 1;
        return count;
    }
    View host() const { return View(data, shape, dtype_of<T>()); }
    const Arrangement& ranks;
    Buffer buffer;
    Shape shape;
    T* there;
    std::vector<T> copy;
    T* data;
};

// leaf(begin) ∘ … ∘ leaf(begin + count - 1) by the definition of the summation tree.
template <class V, class Leaf, class Operation>
V tree_combine(std::int64_t begin, std::int64_t count, const Leaf& leaf, const Operation& operation) {
    if (count == 1) return leaf(begin);
    std::int64_t left = 1;
    while (left * 2 < count)
        left *= 2;
    const V a = tree_combine<V>(begin, left, leaf, operation);
    return operation(a, tree_combine<V>(begin + left, count - left, leaf, operation));
}

template <class T> T expected_reduction(Reduction reduction, std::int64_t seed, int ranks, std::int64_t index) {
    using V = std::conditional_t<std::is_same_v<T, std::int32_t>, std::int64_t, float>;
    const V result = tree_combine<V>(
        0, ranks, [&](std::int64_t rank) { return static_cast<V>(value<T>(seed, rank, index)); },
        [&](V a, V b) {
            return reduction == Reduction::sum ? a + b : reduction == Reduction::max ? std::max(a, b) : std::min(a, b);
        });
    return static_cast<T>(result);
}

} // namespace tessera::test
