// SPDX-License-Identifier: Apache-2.0
// Three numbers of each row and rank travel instead of the logits (Megatron-LM: Shoeybi et al. 2019).
#include "core/ops/cross_entropy_shard.hpp"

#include "kernels/cross_entropy_shard.hpp"
#include "kernels/memory.hpp"
#include "kernels/reduce.hpp"

#include <algorithm>

namespace tessera {
namespace {

kernels::VocabularyShard shard_of(const Operands& a, std::int64_t classes) {
    return {a.locality == nullptr ? 0 : a.locality->inputs[0].ranges.back().begin, classes};
}

// Dim d of the targets is dim 2 + d of the statistics.
std::vector<PlacementRule> rules_of_rows(const Shape& targets, std::size_t inputs, bool second, bool with_gradient) {
    std::vector<PlacementRule> rules;
    for (int dim = 0; dim < targets.rank(); ++dim) {
        PlacementRule rule{std::vector<Placement>(inputs), {}};
        rule.inputs[0] = rule.inputs[1] = Placement::shard(dim);
        if (second) {
            rule.inputs.back() = Placement::shard(2 + dim);
            if (with_gradient) rule.outputs.push_back(Placement::shard(dim));
            rule.outputs.push_back(Placement::partial());
        } else {
            rule.outputs.push_back(Placement::shard(2 + dim));
        }
        rules.push_back(std::move(rule));
    }
    return rules;
}

class Statistics final : public Op {
public:
    Statistics(int ranks, std::int64_t classes) : ranks_(ranks), classes_(classes) {}
    std::string_view name() const override { return "cross_entropy_statistics"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        Shape shape{ranks_, 3};
        for (int dim = 0; dim < in[1].shape.rank(); ++dim)
            shape.append(in[1].shape[dim]);
        return {{shape, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules = rules_of_rows(in[1].shape, in.size(), false, false);
        rules.push_back({std::vector<Placement>(in.size()), {Placement::shard(0)}});
        rules.back().inputs[0] = Placement::shard(in[0].shape.rank() - 1);
        return rules;
    }
    void run(Stream& stream, const Operands& a) const override {
        const View mine(a.outputs[0].memory(), {3, a.inputs[1].count()}, DType::f32);
        std::visit(
            [&](auto& s) {
                kernels::cross_entropy_shard_statistics(s, a.inputs[0], a.inputs[1], shard_of(a, classes_), mine);
            },
            stream);
    }

private:
    int ranks_;
    std::int64_t classes_;
};

class ShardLoss final : public Op {
public:
    ShardLoss(std::int64_t classes, bool with_gradient) : classes_(classes), with_gradient_(with_gradient) {}
    std::string_view name() const override { return "cross_entropy_shard"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        const TensorType loss{{}, DType::f32};
        return with_gradient_ ? std::vector<TensorType>{in[0], loss} : std::vector<TensorType>{loss};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules = rules_of_rows(in[1].shape, in.size(), true, with_gradient_);
        const Placement cut = Placement::shard(in[0].shape.rank() - 1), whole = Placement::replicate();
        rules.push_back({std::vector<Placement>(in.size()), {whole}});
        rules.back().inputs[0] = cut;
        if (with_gradient_) rules.back().outputs = {cut, whole};
        return rules;
    }
    int in_place_input() const override { return with_gradient_ ? 0 : -1; }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return 4 * align_up(in[1].shape.count() * bytes_of(DType::f32)); // combined statistics, losses
    }
    void run(Stream& stream, const Operands& a) const override {
        const std::int64_t rows = a.inputs[1].count();
        auto* memory = static_cast<std::byte*>(a.workspace.memory());
        const View combined(memory, {3, rows}, DType::f32);
        const View losses(memory + 3 * align_up(rows * bytes_of(DType::f32)), {rows}, DType::f32);
        const View& all = a.inputs.back();
        const ConstView shards(View(all.memory(), {all.shape[0], 3, rows}, DType::f32));
        const ConstView scale = with_gradient_ ? ConstView(a.inputs[2]) : ConstView();
        const View dlogits = with_gradient_ ? a.outputs[0] : View();
        std::visit(
            [&](auto& s) {
                kernels::combine_cross_entropy_shards(s, shards, combined);
                kernels::cross_entropy_shard_gradient(s, a.inputs[0], a.inputs[1], shard_of(a, classes_), scale,
                                                      combined, losses, dlogits);
                kernels::sum(s, losses, a.outputs.back());
            },
            stream);
    }

private:
    std::int64_t classes_;
    bool with_gradient_;
};

} // namespace

Op::Halves cross_entropy_halves(int ranks, std::int64_t classes, bool with_gradient) {
    return {std::make_shared<Statistics>(ranks, classes), std::make_shared<ShardLoss>(classes, with_gradient)};
}

bool classes_are_cut(const Shape& logits, std::span<const Placement> inputs) {
    return inputs[0] == Placement::shard(logits.rank() - 1) &&
           std::all_of(inputs.begin() + 1, inputs.end(), [](Placement p) { return p == Placement::replicate(); });
}

} // namespace tessera
