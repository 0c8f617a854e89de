// SPDX-License-Identifier: Apache-2.0
// Ring attention: a rank's own shard as one causal block, then a block of keys and values from each rank before it, as
// the pairs of halves that a causal mask leaves (layout/zigzag.hpp). Each pair is attention without a mask of packed
// halves, so that it runs on the kernels of whole attention; sums over pairs are in f32.
#include "core/ops/ring_attention.hpp"

#include "core/ops/room.hpp"
#include "kernels/attention.hpp"
#include "kernels/attention_merge.hpp"
#include "kernels/copy.hpp"
#include "kernels/memory.hpp"
#include "kernels/rows.hpp"
#include "parallel/communication/groups.hpp"
#include "parallel/layout/zigzag.hpp"

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

using kernels::RowPlaces;

// A rank's shard: qkv (B, T, 3, H, D), of which each half has T / 2 tokens.
struct Shard {
    std::int64_t batch, tokens, heads, head_dim;
    DType dtype;
    bool causal;

    Shard(const TensorType& qkv, bool is_causal)
        : batch(qkv.shape[0]), tokens(qkv.shape[1]), heads(qkv.shape[3]), head_dim(qkv.shape[4]), dtype(qkv.dtype),
          causal(is_causal) {}

    std::int64_t width() const { return heads * head_dim; } // of a token's q, k or v
    std::int64_t half() const { return tokens / 2; }
    bool narrow() const { return dtype != DType::f32; }
    kernels::AttentionShape own() const { return shape(tokens, causal); }
    kernels::AttentionShape pair() const { return shape(half(), false); }
    kernels::AttentionShape shape(std::int64_t count, bool masked) const {
        return {.batch = batch,
                .tokens = count,
                .heads = heads,
                .kv_heads = heads,
                .head_dim = head_dim,
                .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
                .causal = masked};
    }

    // Rows of a half, or of all tokens, among tokens of `parts` times the width, the first `part` of which are left
    // out.
    RowPlaces in_shard(int half_index, int parts, int part) const {
        return {half_index * half() * parts * width() + part * width(), parts * width(), tokens * parts * width()};
    }
    RowPlaces in_half(int parts, int part) const { return {part * width(), parts * width(), half() * parts * width()}; }
    kernels::Rows half_rows(int parts) const { return {batch, half(), parts * width()}; }
    kernels::Rows rows(int parts) const { return {batch, tokens, parts * width()}; }
};

void copy_rows(Stream& stream, const kernels::Rows& rows, ConstView x, const RowPlaces& from, View y,
               const RowPlaces& to) {
    std::visit([&](auto& s) { kernels::copy_rows(s, rows, x, from, y, to); }, stream);
}

void accumulate_rows(Stream& stream, const kernels::Rows& rows, ConstView x, const RowPlaces& from, View y,
                     const RowPlaces& to) {
    std::visit([&](auto& s) { kernels::accumulate_rows(s, rows, x, from, y, to); }, stream);
}

void cast(Stream& stream, ConstView x, View y) {
    std::visit([&](auto& s) { kernels::cast(s, x, y); }, stream);
}

// Keys and values, which travel on from rank to rank: the shard that is here, and the place of the next.
struct Travellers {
    View here, next;

    Travellers(Room& room, const Shard& shard, DType dtype)
        : here(room.take({shard.batch, shard.tokens, 2 * shard.width()}, dtype)), next(room.take(here.shape, dtype)) {}

    void travel(Stream& stream, Communicator& ring) {
        ring.shift(stream, here, next);
        std::swap(here, next);
    }
};

// A half's queries with a half's keys and values, as attention takes them: (B, T / 2, 3, H, D).
void pack_pair(Stream& stream, const Shard& shard, const HalfPair& pair, ConstView qkv, ConstView kv, View packed) {
    copy_rows(stream, shard.half_rows(1), qkv, shard.in_shard(pair.queries, 3, 0), packed, shard.in_half(3, 0));
    copy_rows(stream, shard.half_rows(2), kv, shard.in_shard(pair.keys, 2, 0), packed, shard.in_half(3, 1));
}

int rank_before(const Communicator& ring, int steps) { return (ring.rank() + ring.size() - steps) % ring.size(); }

class RingOp : public Op {
public:
    RingOp(int axis, int ranks, bool causal) : axis_(axis), ranks_(ranks), causal_(causal) {}
    std::optional<Transfer> transfer() const override { return Transfer{axis_, Collective::ring}; }

protected:
    Communicator& ring(const Operands& a) const { return a.groups->axis(axis_); }

    int axis_;
    int ranks_;
    bool causal_;
};

class RingAttention final : public RingOp {
public:
    using RingOp::RingOp;
    std::string_view name() const override { return "ring_attention"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return attention_types(in[0]); }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return {{{Placement::shard(3)}, {Placement::shard(2), Placement::shard(1)}},
                {{Placement::shard(0)}, {Placement::shard(0), Placement::shard(0)}}};
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return 2 * attention_product_flops(in[0].shape, causal_);
    }
    std::int64_t travelling_bytes(std::span<const TensorType> in) const override { return in[0].bytes() / 3 * 2; }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        Room room;
        Scratch(room, stream, Shard(in[0], causal_));
        return room.bytes();
    }

    void run(Stream& stream, const Operands& a) const override {
        const View &qkv = a.inputs[0], &y = a.outputs[0], &log_sum_exp = a.outputs[1];
        const Shard shard({qkv.shape, qkv.dtype}, causal_);
        Room room(static_cast<std::byte*>(a.workspace.memory()));
        Scratch scratch(room, stream, shard);
        std::visit([&](auto& s) { kernels::attention(s, shard.own(), qkv, y, log_sum_exp, scratch.of_kernel); },
                   stream);
        const View sum = shard.narrow() ? scratch.sum : y;
        if (shard.narrow()) cast(stream, y, sum);
        copy_rows(stream, shard.rows(2), qkv, shard.in_shard(0, 3, 1), scratch.kv.here, shard.in_shard(0, 2, 0));
        for (int step = 1; step < ranks_; ++step) {
            scratch.kv.travel(stream, ring(a));
            for (const HalfPair& pair : pairs_seen(ring(a).rank(), rank_before(ring(a), step), causal_))
                attend(stream, shard, scratch, pair, qkv, sum, log_sum_exp);
        }
        if (shard.narrow()) cast(stream, sum, y);
    }

private:
    struct Scratch {
        Travellers kv;
        View pair, y, log_sum_exp; // of a pair
        View sum, of_kernel;

        Scratch(Room& room, const Stream& stream, const Shard& shard)
            : kv(room, shard, shard.dtype),
              pair(room.take({shard.batch, shard.half(), 3, shard.heads, shard.head_dim}, shard.dtype)),
              y(room.take({shard.batch, shard.half(), shard.heads, shard.head_dim}, shard.dtype)),
              log_sum_exp(room.take({shard.batch, shard.heads, shard.half()}, DType::f32)),
              sum(room.take({shard.narrow() ? shard.batch * shard.tokens * shard.width() : 0}, DType::f32)) {
            const std::int64_t bytes = std::visit(
                [&](auto& s) {
                    return std::max(kernels::attention_workspace_bytes(s, shard.own(), shard.dtype),
                                    kernels::attention_workspace_bytes(s, shard.pair(), shard.dtype));
                },
                stream);
            of_kernel = room.take({(bytes + 3) / 4}, DType::f32);
        }
    };

    static void attend(Stream& stream, const Shard& shard, const Scratch& scratch, const HalfPair& pair,
                       const View& qkv, const View& sum, const View& log_sum_exp) {
        pack_pair(stream, shard, pair, qkv, scratch.kv.here, scratch.pair);
        const kernels::AttentionPart part{.batch = shard.batch,
                                          .tokens = shard.half(),
                                          .heads = shard.heads,
                                          .head_dim = shard.head_dim,
                                          .first = pair.queries * shard.half(),
                                          .all_tokens = shard.tokens};
        std::visit(
            [&](auto& s) {
                kernels::attention(s, shard.pair(), scratch.pair, scratch.y, scratch.log_sum_exp, scratch.of_kernel);
                kernels::attention_merge(s, part, scratch.y, scratch.log_sum_exp, sum, log_sum_exp);
            },
            stream);
    }
};

// With the logarithm of the whole softmax's denominator, each pair gives its part of the gradient (Dao 2023, algorithm
// 2). What a shard's keys and values are owed travels with them and so comes home.
class RingAttentionGradient final : public RingOp { // qkv, y, log_sum_exp, dy -> dqkv
public:
    using RingOp::RingOp;
    std::string_view name() const override { return "ring_attention_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0]}; }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        const auto at = [](int dim) { return Placement::shard(dim); };
        return {{{at(3), at(2), at(1), at(2)}, {at(3)}}, {{at(0), at(0), at(0), at(0)}, {at(0)}}};
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return 4 * attention_product_flops(in[0].shape, causal_);
    }
    std::int64_t travelling_bytes(std::span<const TensorType> in) const override { // and the gradients, in f32
        return in[0].bytes() / 3 * 2 + in[0].shape.count() / 3 * 2 * bytes_of(DType::f32);
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        Room room;
        Scratch(room, stream, Shard(in[0], causal_));
        return room.bytes();
    }

    void run(Stream& stream, const Operands& a) const override {
        const View &qkv = a.inputs[0], &dqkv = a.outputs[0];
        const Shard shard({qkv.shape, qkv.dtype}, causal_);
        Room room(static_cast<std::byte*>(a.workspace.memory()));
        Scratch scratch(room, stream, shard);
        std::visit(
            [&](auto& s) {
                kernels::attention_gradient(s, shard.own(), qkv, a.inputs[1], a.inputs[3], a.inputs[2], dqkv,
                                            scratch.of_kernel);
            },
            stream);
        const View sum = shard.narrow() ? scratch.sum : dqkv;
        if (shard.narrow()) cast(stream, dqkv, sum);
        copy_rows(stream, shard.rows(2), qkv, shard.in_shard(0, 3, 1), scratch.kv.here, shard.in_shard(0, 2, 0));
        for (int step = 1; step < ranks_; ++step) {
            scratch.kv.travel(stream, ring(a));
            if (step == 1)
                std::visit([&](auto& s) { kernels::fill(s, scratch.owed.here, 0); }, stream);
            else
                scratch.owed.travel(stream, ring(a));
            for (const HalfPair& pair : pairs_seen(ring(a).rank(), rank_before(ring(a), step), causal_))
                differentiate(stream, shard, scratch, pair, a, sum);
        }
        scratch.owed.travel(stream, ring(a)); // home
        accumulate_rows(stream, shard.rows(2), scratch.owed.here, shard.in_shard(0, 2, 0), sum,
                        shard.in_shard(0, 3, 1));
        if (shard.narrow()) cast(stream, sum, dqkv);
    }

private:
    struct Scratch {
        Travellers kv, owed;
        View pair, pair_gradient, y, dy, log_sum_exp; // of a pair
        View sum, of_kernel;

        Scratch(Room& room, const Stream& stream, const Shard& shard)
            : kv(room, shard, shard.dtype), owed(room, shard, DType::f32),
              pair(room.take({shard.batch, shard.half(), 3, shard.heads, shard.head_dim}, shard.dtype)),
              pair_gradient(room.take(pair.shape, shard.dtype)),
              y(room.take({shard.batch, shard.half(), shard.heads, shard.head_dim}, shard.dtype)),
              dy(room.take(y.shape, shard.dtype)),
              log_sum_exp(room.take({shard.batch, shard.heads, shard.half()}, DType::f32)),
              sum(room.take({shard.narrow() ? 3 * shard.batch * shard.tokens * shard.width() : 0}, DType::f32)) {
            const std::int64_t bytes = std::visit(
                [&](auto& s) {
                    return std::max(kernels::attention_gradient_workspace_bytes(s, shard.own(), shard.dtype),
                                    kernels::attention_gradient_workspace_bytes(s, shard.pair(), shard.dtype));
                },
                stream);
            of_kernel = room.take({(bytes + 3) / 4}, DType::f32);
        }
    };

    static void differentiate(Stream& stream, const Shard& shard, const Scratch& scratch, const HalfPair& pair,
                              const Operands& a, const View& sum) {
        pack_pair(stream, shard, pair, a.inputs[0], scratch.kv.here, scratch.pair);
        for (const auto& [from, to] : {std::pair{a.inputs[1], scratch.y}, std::pair{a.inputs[3], scratch.dy}})
            copy_rows(stream, shard.half_rows(1), from, shard.in_shard(pair.queries, 1, 0), to, shard.in_half(1, 0));
        const std::int64_t half = shard.half();
        copy_rows(stream, {shard.batch * shard.heads, 1, half}, a.inputs[2], {pair.queries * half, 0, shard.tokens},
                  scratch.log_sum_exp, {0, 0, half});
        std::visit(
            [&](auto& s) {
                kernels::attention_gradient(s, shard.pair(), scratch.pair, scratch.y, scratch.dy, scratch.log_sum_exp,
                                            scratch.pair_gradient, scratch.of_kernel);
            },
            stream);
        accumulate_rows(stream, shard.half_rows(1), scratch.pair_gradient, shard.in_half(3, 0), sum,
                        shard.in_shard(pair.queries, 3, 0));
        accumulate_rows(stream, shard.half_rows(2), scratch.pair_gradient, shard.in_half(3, 1), scratch.owed.here,
                        shard.in_shard(pair.keys, 2, 0));
    }
};

} // namespace

std::shared_ptr<const Op> make_ring_attention(int axis, int ranks, bool causal) {
    return std::make_shared<RingAttention>(axis, ranks, causal);
}

std::shared_ptr<const Op> make_ring_attention_gradient(int axis, int ranks, bool causal) {
    return std::make_shared<RingAttentionGradient>(axis, ranks, causal);
}

} // namespace tessera
