// SPDX-License-Identifier: Apache-2.0
// confusion, top_k_hits and binary_counts: counts that evaluations are judged by, sums over all rows; and place_scores,
// which keeps scores apart: of each row in a place of its own, so that sums over micro-batches and ranks hold them all.
#include "kernels/classification.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/memory.hpp"
#include "kernels/reduce.hpp"

namespace tessera {
namespace {

enum class Counting { confusion, top_k };

// Every row counts for itself: ranks may have some each.
class Classification final : public Op { // logits, targets -> counts
public:
    // size: classes. k: of top_k
    Classification(Counting counting, std::int64_t size, std::int64_t k) : counting_(counting), size_(size), k_(k) {}
    std::string_view name() const override { return counting_ == Counting::confusion ? "confusion" : "top_k_hits"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("logits", in[0].dtype);
        expect_dims("logits", in[0], 1);
        if (in[0].shape[-1] < size_)
            throw ConfigError(fmt::format("logits is {}, expected at least {} columns", in[0].shape.text(), size_));
        expect_dtype("targets", in[1].dtype, DType::i32);
        expect_shape("targets", in[1].shape, in[0].shape.slice(0, in[0].shape.rank() - 1));
        if (counting_ == Counting::top_k) return {{{}, DType::f32}};
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
                if (counting_ != Counting::top_k) return;
                kernels::top_k_hits(s, size_, k_, a.inputs[0], a.inputs[1], scratch);
                kernels::sum(s, scratch, a.outputs[0]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 6, size_}, DType::f32}, false}, {{{4, 6}, DType::i32}, false, static_cast<std::int32_t>(size_)}};
    }

private:
    Counting counting_;
    std::int64_t size_, k_;
};

// Every row counts for itself.
class BinaryCounts final : public Op { // logits, targets -> counts
public:
    std::string_view name() const override { return "binary_counts"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("logits", in[0].dtype);
        expect_dims("logits", in[0], 1);
        expect_dtype("targets", in[1].dtype, DType::f32);
        expect_shape("targets", in[1].shape, in[0].shape);
        return {{{4, in[0].shape[-1]}, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim + 1 < in[0].shape.rank(); ++dim)
            rules.push_back({{Placement::shard(dim), Placement::shard(dim)}, {Placement::partial()}});
        return rules;
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::binary_counts(s, a.inputs[0], a.inputs[1], a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 6, 3}, DType::f32}, false}, {{{4, 6, 3}, DType::f32}, false}};
    }
};

// Whole on each rank: which rows these are goes by the number of the first.
class PlaceScores final : public Op { // logits, targets, first -> scores
public:
    PlaceScores(std::int64_t rows, std::int64_t columns) : rows_(rows), columns_(columns) {}
    std::string_view name() const override { return "place_scores"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("logits", in[0].dtype);
        expect_dims("logits", in[0], 1);
        const Shape of_rows = in[0].shape.slice(0, in[0].shape.rank() - 1);
        if (in[0].shape[-1] < columns_)
            throw ConfigError(fmt::format("logits is {}, expected at least {} columns", in[0].shape.text(), columns_));
        const bool labels = in[1].dtype == DType::i32;
        if (!labels) expect_dtype("targets", in[1].dtype, DType::f32);
        expect_shape("targets", in[1].shape, labels ? of_rows : in[0].shape);
        expect_dtype("first", in[2].dtype, DType::i32);
        expect_shape("first", in[2].shape, {});
        return {{{rows_, labels ? columns_ + 1 : 2 * columns_}, DType::f32}};
    }
    std::vector<PlacementRule> micro_batch_rules(std::span<const TensorType>) const override {
        return {{{Placement::shard(0), Placement::shard(0), Placement::replicate()}, {Placement::partial()}}};
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) { kernels::place_scores(s, columns_, a.inputs[0], a.inputs[1], a.inputs[2], a.outputs[0]); },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        const auto first = [](const StepState&, const View& host) { *host.as<std::int32_t>() = 3; };
        return {{{{4, columns_}, DType::f32}, false},
                {{{4}, DType::i32}, false, static_cast<std::int32_t>(columns_)},
                {{{}, DType::i32}, false, 0, 0, first}};
    }

private:
    std::int64_t rows_, columns_;
};

} // namespace

OpPointer make_confusion(std::int64_t classes) {
    return std::make_shared<Classification>(Counting::confusion, classes, 0);
}
OpPointer make_top_k_hits(std::int64_t classes, std::int64_t k) {
    return std::make_shared<Classification>(Counting::top_k, classes, k);
}
OpPointer make_binary_counts() { return std::make_shared<BinaryCounts>(); }
OpPointer make_place_scores(std::int64_t rows, std::int64_t columns) {
    return std::make_shared<PlaceScores>(rows, columns);
}

ValueId ops::confusion(Graph& graph, std::string name, ValueId logits, ValueId targets, std::int64_t classes) {
    return graph.apply_one(make_confusion(classes), std::move(name), {logits, targets});
}

ValueId ops::top_k_hits(Graph& graph, std::string name, ValueId logits, ValueId targets, std::int64_t classes,
                        std::int64_t k) {
    return graph.apply_one(make_top_k_hits(classes, k), std::move(name), {logits, targets});
}

ValueId ops::binary_counts(Graph& graph, std::string name, ValueId logits, ValueId targets) {
    return graph.apply_one(make_binary_counts(), std::move(name), {logits, targets});
}

ValueId ops::place_scores(Graph& graph, std::string name, ValueId logits, ValueId targets, ValueId first,
                          std::int64_t rows, std::int64_t columns) {
    return graph.apply_one(make_place_scores(rows, columns), std::move(name), {logits, targets, first});
}

} // namespace tessera
