// SPDX-License-Identifier: Apache-2.0
// A collective as a node of the graph: it leads a value from where it is to where an op wants it, on one mesh axis.
#pragma once

#include "core/graph/op.hpp"
#include "parallel/layout/redistribute.hpp"

namespace tessera {

class Redistribute final : public Op { // x -> y, the same logical tensor
public:
    // `zigzag`: the axis cuts dims so. `ordered_dim`: whose order counts, as that of heads does not.
    // InternalError where no single collective leads from one placement to the other.
    Redistribute(int axis, int ranks, Placement from, Placement to, bool zigzag = false, int ordered_dim = -1);

    std::optional<Transfer> transfer() const override { return Transfer{axis_, collective_}; }
    std::string_view name() const override { return name_of(collective_); }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0]}; }
    // On the other axes the value stays where it is. But a part of a zig-zag shard is no zig-zag shard of a part, and
    // an exchange deals out what an inner axis has left of a dim, in another order than the dim's.
    std::optional<std::vector<Placement>> placed(std::span<const TensorType>,
                                                 std::span<const Placement> inputs) const override {
        const bool same_dim =
            inputs[0].kind == Placement::Kind::shard && (inputs[0].value == from_dim_ || inputs[0].value == to_dim_);
        if (zigzag_ && same_dim) return std::nullopt;
        if (collective_ == Collective::all_to_all && same_dim && inputs[0].value == ordered_dim_) return std::nullopt;
        return std::vector<Placement>{inputs[0]};
    }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType> out) const override;
    int in_place_input() const override { return collective_ == Collective::all_reduce ? 0 : -1; }
    void run(Stream& stream, const Operands& operands) const override;
    std::int64_t begin(Stream& stream, const Operands& operands) const override; // of runs of elements

private:
    std::vector<Range> ranges_of(std::int64_t size, int rank) const;
    bool is_packed(const Shape& whole, int dim) const;
    void copy_parts(Stream& stream, const View& whole, int dim, const View& packed, bool pack) const;
    void gather(Stream& stream, const Operands& operands) const;
    void scatter_sum(Stream& stream, const Operands& operands) const;
    void slice(Stream& stream, const Operands& operands) const;
    void exchange(Stream& stream, const Operands& operands) const;

    int axis_;
    int ranks_;
    Collective collective_;
    int from_dim_; // of a shard; -1: a run of elements
    int to_dim_;
    bool zigzag_;
    int ordered_dim_;
};

} // namespace tessera
