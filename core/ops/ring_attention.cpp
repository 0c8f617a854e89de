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

namespace tessera {
namespace {

using kernels::RowPlaces;

// The columns of rows, as wide as `all`, of which the first `first` are left out.
struct Columns {
    std::int64_t first, all;
};

// A rank's shard of qkv, of which each half has T / 2 tokens. A token is one row of all heads' queries, then keys and
// values; by group a row of each group.
struct Shard {
    kernels::AttentionShape of;
    DType dtype;

    Shard(const TensorType& qkv, bool causal, bool by_group)
        : of(attention_shape(qkv.shape, causal, by_group)), dtype(qkv.dtype) {}

    std::int64_t token_rows() const { return of.by_group ? of.kv_heads : 1; }
    std::int64_t q_columns() const { return of.heads / token_rows() * of.head_dim; }
    std::int64_t kv_columns() const { return 2 * of.kv_heads / token_rows() * of.head_dim; }
    Columns q_in_qkv() const { return {0, q_columns() + kv_columns()}; }
    Columns kv_in_qkv() const { return {q_columns(), q_columns() + kv_columns()}; }
    Columns kv() const { return {0, kv_columns()}; }
    Columns y() const { return {0, q_columns()}; }

    std::int64_t half() const { return of.tokens / 2; }
    bool narrow() const { return dtype != DType::f32; }
    const kernels::AttentionShape& own() const { return of; }
    kernels::AttentionShape pair() const {
        kernels::AttentionShape shape = of;
        shape.tokens = half();
        shape.causal = false;
        return shape;
    }
    Shape kv_shape() const { return {of.batch, of.tokens, 2 * of.kv_heads * of.head_dim}; }
    std::int64_t kv_count() const { return kv_shape().count(); }

    // Rows of a half, or of all tokens.
    RowPlaces in_shard(int half_index, const Columns& columns) const {
        return {half_index * half() * token_rows() * columns.all + columns.first, columns.all,
                of.tokens * token_rows() * columns.all};
    }
    RowPlaces in_half(const Columns& columns) const {
        return {columns.first, columns.all, half() * token_rows() * columns.all};
    }
    kernels::Rows half_rows(std::int64_t columns) const { return {of.batch, half() * token_rows(), columns}; }
    kernels::Rows rows(std::int64_t columns) const { return {of.batch, of.tokens * token_rows(), columns}; }
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
        : here(room.take(shard.kv_shape(), dtype)), next(room.take(here.shape, dtype)) {}

    void travel(Stream& stream, Communicator& ring) {
        ring.shift(stream, here, next);
        std::swap(here, next);
    }
};

// A half's queries with a half's keys and values, as attention takes them: T / 2 tokens.
void pack_pair(Stream& stream, const Shard& shard, const HalfPair& pair, ConstView qkv, ConstView kv, View packed) {
    copy_rows(stream, shard.half_rows(shard.q_columns()), qkv, shard.in_shard(pair.queries, shard.q_in_qkv()), packed,
              shard.in_half(shard.q_in_qkv()));
    copy_rows(stream, shard.half_rows(shard.kv_columns()), kv, shard.in_shard(pair.keys, shard.kv()), packed,
              shard.in_half(shard.kv_in_qkv()));
}

int rank_before(const Communicator& ring, int steps) { return (ring.rank() + ring.size() - steps) % ring.size(); }

class RingOp : public Op {
public:
    RingOp(int axis, int ranks, bool causal, bool by_group)
        : axis_(axis), ranks_(ranks), causal_(causal), by_group_(by_group) {}
    std::optional<Transfer> transfer() const override { return Transfer{axis_, Collective::ring}; }

protected:
    Communicator& ring(const Operands& a) const { return a.groups->axis(axis_); }
    Shard shard_of(const TensorType& qkv) const { return {qkv, causal_, by_group_}; }

    int axis_;
    int ranks_;
    bool causal_, by_group_;
};

class RingAttention final : public RingOp {
public:
    using RingOp::RingOp;
    std::string_view name() const override { return "ring_attention"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return attention_types(in[0], by_group_);
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return {{{Placement::shard(head_dim_of(by_group_))}, {Placement::shard(2), Placement::shard(1)}},
                {{Placement::shard(0)}, {Placement::shard(0), Placement::shard(0)}}};
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return 2 * attention_product_flops(shard_of(in[0]).of);
    }
    std::int64_t travelling_bytes(std::span<const TensorType> in) const override {
        return shard_of(in[0]).kv_count() * bytes_of(in[0].dtype);
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        Room room;
        Scratch(room, stream, shard_of(in[0]));
        return room.bytes();
    }

    void run(Stream& stream, const Operands& a) const override {
        const View &qkv = a.inputs[0], &y = a.outputs[0], &log_sum_exp = a.outputs[1];
        const Shard shard = shard_of({qkv.shape, qkv.dtype});
        Room room(static_cast<std::byte*>(a.workspace.memory()));
        Scratch scratch(room, stream, shard);
        std::visit([&](auto& s) { kernels::attention(s, shard.own(), qkv, y, log_sum_exp, scratch.of_kernel); },
                   stream);
        const View sum = shard.narrow() ? scratch.sum : y;
        if (shard.narrow()) cast(stream, y, sum);
        copy_rows(stream, shard.rows(shard.kv_columns()), qkv, shard.in_shard(0, shard.kv_in_qkv()), scratch.kv.here,
                  shard.in_shard(0, shard.kv()));
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
            : kv(room, shard, shard.dtype), pair(room.take({shard.pair().qkv_count()}, shard.dtype)),
              y(room.take({shard.pair().y_count()}, shard.dtype)),
              log_sum_exp(room.take({shard.pair().row_count()}, DType::f32)),
              sum(room.take({shard.narrow() ? shard.of.y_count() : 0}, DType::f32)) {
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
        const kernels::AttentionPart part{.batch = shard.of.batch,
                                          .tokens = shard.half(),
                                          .heads = shard.of.heads,
                                          .head_dim = shard.of.head_dim,
                                          .first = pair.queries * shard.half(),
                                          .all_tokens = shard.of.tokens};
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
        const Placement heads = at(head_dim_of(by_group_));
        return {{{heads, at(2), at(1), at(2)}, {heads}}, {{at(0), at(0), at(0), at(0)}, {at(0)}}};
    }
    double flops(std::span<const TensorType> in, std::span<const TensorType>) const override {
        return 4 * attention_product_flops(shard_of(in[0]).of);
    }
    std::int64_t travelling_bytes(std::span<const TensorType> in) const override { // and the gradients, in f32
        return shard_of(in[0]).kv_count() * (bytes_of(in[0].dtype) + bytes_of(DType::f32));
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        Room room;
        Scratch(room, stream, shard_of(in[0]));
        return room.bytes();
    }

    void run(Stream& stream, const Operands& a) const override {
        const View &qkv = a.inputs[0], &dqkv = a.outputs[0];
        const Shard shard = shard_of({qkv.shape, qkv.dtype});
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
        copy_rows(stream, shard.rows(shard.kv_columns()), qkv, shard.in_shard(0, shard.kv_in_qkv()), scratch.kv.here,
                  shard.in_shard(0, shard.kv()));
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
        accumulate_rows(stream, shard.rows(shard.kv_columns()), scratch.owed.here, shard.in_shard(0, shard.kv()), sum,
                        shard.in_shard(0, shard.kv_in_qkv()));
        if (shard.narrow()) cast(stream, sum, dqkv);
    }

private:
    struct Scratch {
        Travellers kv, owed;
        View pair, pair_gradient, y, dy, log_sum_exp; // of a pair
        View sum, of_kernel;

        Scratch(Room& room, const Stream& stream, const Shard& shard)
            : kv(room, shard, shard.dtype), owed(room, shard, DType::f32),
              pair(room.take({shard.pair().qkv_count()}, shard.dtype)),
              pair_gradient(room.take(pair.shape, shard.dtype)), y(room.take({shard.pair().y_count()}, shard.dtype)),
              dy(room.take(y.shape, shard.dtype)), log_sum_exp(room.take({shard.pair().row_count()}, DType::f32)),
              sum(room.take({shard.narrow() ? shard.of.qkv_count() : 0}, DType::f32)) {
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
            copy_rows(stream, shard.half_rows(shard.q_columns()), from, shard.in_shard(pair.queries, shard.y()), to,
                      shard.in_half(shard.y()));
        const std::int64_t half = shard.half();
        copy_rows(stream, {shard.of.batch * shard.of.heads, 1, half}, a.inputs[2],
                  {pair.queries * half, 0, shard.of.tokens}, scratch.log_sum_exp, {0, 0, half});
        std::visit(
            [&](auto& s) {
                kernels::attention_gradient(s, shard.pair(), scratch.pair, scratch.y, scratch.dy, scratch.log_sum_exp,
                                            scratch.pair_gradient, scratch.of_kernel);
            },
            stream);
        accumulate_rows(stream, shard.half_rows(shard.q_columns()), scratch.pair_gradient,
                        shard.in_half(shard.q_in_qkv()), sum, shard.in_shard(pair.queries, shard.q_in_qkv()));
        accumulate_rows(stream, shard.half_rows(shard.kv_columns()), scratch.pair_gradient,
                        shard.in_half(shard.kv_in_qkv()), scratch.owed.here, shard.in_shard(pair.keys, shard.kv()));
    }
};

} // namespace

std::shared_ptr<const Op> make_ring_attention(int axis, int ranks, bool causal, bool by_group) {
    return std::make_shared<RingAttention>(axis, ranks, causal, by_group);
}

std::shared_ptr<const Op> make_ring_attention_gradient(int axis, int ranks, bool causal, bool by_group) {
    return std::make_shared<RingAttentionGradient>(axis, ranks, causal, by_group);
}

} // namespace tessera
