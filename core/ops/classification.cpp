// SPDX-License-Identifier: Apache-2.0
// confusion, top_k_hits and score_counts: counts that evaluations are judged by, sums over all rows.
#include "kernels/classification.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/memory.hpp"
#include "kernels/reduce.hpp"

namespace tessera {
namespace {

enum class Counting { confusion, top_k, scores };

// Every row counts for itself: ranks may have some each.
class Classification final : public Op { // logits, targets -> counts
public:
    // size: classes, or bins. k: of top_k
    Classification(Counting counting, std::int64_t size, std::int64_t k) : counting_(counting), size_(size), k_(k) {}
    std::string_view name() const override {
        return counting_ == Counting::confusion ? "confusion"
               : counting_ == Counting::top_k   ? "top_k_hits"
                                                : "score_counts";
    }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("logits", in[0].dtype);
        expect_dims("logits", in[0], 1);
        const std::int64_t columns = counting_ == Counting::scores ? 2 : size_;
        if (in[0].shape[-1] < columns)
            throw ConfigError(fmt::format("logits is {}, expected at least {} columns", in[0].shape.text(), columns));
        expect_dtype("targets", in[1].dtype, DType::i32);
        expect_shape("targets", in[1].shape, in[0].shape.slice(0, in[0].shape.rank() - 1));
        if (counting_ == Counting::top_k) return {{{}, DType::f32}};
        if (counting_ == Counting::scores) return {{{2, size_}, DType::f32}};
        return {{{size_, size_}, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim + 1 < in[0].shape.rank(); ++dim)
            rules.push_back({{Placement::shard(dim), Placement::shard(dim)}, {Placement::partial()}});
        return rules;
    }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return in[1].shape.count() * bytes_of(DType::f32); // or i32
    }
    void run(Stream& stream, const Operands& a) const override {
        const DType dtype = counting_ == Counting::top_k ? DType::f32 : DType::i32;
        const View scratch(a.workspace.memory(), a.inputs[1].shape, dtype);
        std::visit(
            [&](auto& s) {
                if (counting_ == Counting::confusion)
                    kernels::confusion(s, size_, a.inputs[0], a.inputs[1], scratch, a.outputs[0]);
                if (counting_ == Counting::scores)
                    kernels::score_counts(s, a.inputs[0], a.inputs[1], scratch, a.outputs[0]);
                if (counting_ != Counting::top_k) return;
                kernels::top_k_hits(s, size_, k_, a.inputs[0], a.inputs[1], scratch);
                kernels::sum(s, scratch, a.outputs[0]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        const std::int64_t columns = counting_ == Counting::scores ? 2 : size_;
        return {{{{4, 6, columns}, DType::f32}, false},
                {{{4, 6}, DType::i32}, false, static_cast<std::int32_t>(columns)}};
    }

private:
    Counting counting_;
    std::int64_t size_, k_;
};

} // namespace

OpPointer make_confusion(std::int64_t classes) {
    return std::make_shared<Classification>(Counting::confusion, classes, 0);
}
OpPointer make_top_k_hits(std::int64_t classes, std::int64_t k) {
    return std::make_shared<Classification>(Counting::top_k, classes, k);
}
OpPointer make_score_counts(std::int64_t bins) { return std::make_shared<Classification>(Counting::scores, bins, 0); }

ValueId ops::confusion(Graph& graph, std::string name, ValueId logits, ValueId targets, std::int64_t classes) {
    return graph.apply_one(make_confusion(classes), std::move(name), {logits, targets});
}

ValueId ops::top_k_hits(Graph& graph, std::string name, ValueId logits, ValueId targets, std::int64_t classes,
                        std::int64_t k) {
    return graph.apply_one(make_top_k_hits(classes, k), std::move(name), {logits, targets});
}

ValueId ops::score_counts(Graph& graph, std::string name, ValueId logits, ValueId targets, std::int64_t bins) {
    return graph.apply_one(make_score_counts(bins), std::move(name), {logits, targets});
}

} // namespace tessera
