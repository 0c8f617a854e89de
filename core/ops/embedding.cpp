// SPDX-License-Identifier: Apache-2.0
// embedding: rows of a table chosen by token, and the scatter-add that is its gradient. Rows behind the vocabulary are
// padding: nobody may ask for them, and their gradient is 0.
#include "kernels/embedding.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/copy.hpp"

namespace tessera {
namespace {

View rows_of(const View& table, std::int64_t begin, std::int64_t end) {
    const std::int64_t width = table.shape[1];
    auto* first = static_cast<std::byte*>(table.memory()) + begin * width * bytes_of(table.dtype);
    return {first, {end - begin, width}, table.dtype};
}

class EmbeddingGradient final : public Op { // tokens, dy -> dtable
public:
    EmbeddingGradient(const Shape& table, std::int64_t vocabulary) : table_(table), vocabulary_(vocabulary) {}
    std::string_view name() const override { return "embedding_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType>) const override { return {{table_, DType::f32}}; }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim < in[0].shape.rank(); ++dim)
            rules.push_back({{Placement::shard(dim), Placement::shard(dim)}, {Placement::partial()}});
        rules.push_back({{Placement::replicate(), Placement::shard(in[0].shape.rank())}, {Placement::shard(1)}});
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return std::visit(
            [&](auto& s) { return kernels::embedding_gradient_workspace_bytes(s, in[0].shape.count(), vocabulary_); },
            stream);
    }
    void run(Stream& stream, const Operands& a) const override {
        const View used = rows_of(a.outputs[0], 0, vocabulary_);
        const View padding = rows_of(a.outputs[0], vocabulary_, a.outputs[0].shape[0]);
        std::visit(
            [&](auto& s) {
                kernels::embedding_gradient(s, a.inputs[0], a.inputs[1], used, a.workspace);
                if (padding.count() > 0) kernels::fill(s, padding, 0);
            },
            stream);
    }

private:
    Shape table_;
    std::int64_t vocabulary_;
};

class Embedding final : public Op { // tokens, table -> y
public:
    explicit Embedding(std::int64_t vocabulary) : vocabulary_(vocabulary) {}
    std::string_view name() const override { return "embedding"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_dtype("tokens", in[0].dtype, DType::i32);
        expect_floating("table", in[1].dtype);
        if (in[1].shape.rank() != 2)
            throw ConfigError(fmt::format("table is {}, expected (vocabulary, width)", in[1].shape.text()));
        if (in[1].shape[0] < vocabulary_)
            throw ConfigError(fmt::format("table is {}, expected at least {} rows", in[1].shape.text(), vocabulary_));
        Shape shape = in[0].shape;
        shape.append(in[1].shape[1]);
        return {{shape, in[1].dtype}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override {
        const Shape& table = graph.value(node.inputs[1]).type.shape;
        return {no_value, graph.apply_one(std::make_shared<EmbeddingGradient>(table, vocabulary_),
                                          node.name + ".gradient", {node.inputs[0], dy[0]})};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim < in[0].shape.rank(); ++dim)
            rules.push_back({{Placement::shard(dim), Placement::replicate()}, {Placement::shard(dim)}});
        rules.push_back({{Placement::replicate(), Placement::shard(1)}, {Placement::shard(in[0].shape.rank())}});
        return rules;
    }
    void run(Stream& stream, const Operands& a) const override {
        const View table = rows_of(a.inputs[1], 0, vocabulary_);
        std::visit([&](auto& s) { kernels::embedding(s, a.inputs[0], table, a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 6}, DType::i32}, false, static_cast<std::int32_t>(vocabulary_)}, {{{11, 18}, DType::f32}}};
    }

private:
    std::int64_t vocabulary_;
};

} // namespace

OpPointer make_embedding(std::int64_t vocabulary) { return std::make_shared<Embedding>(vocabulary); }

ValueId ops::embedding(Graph& graph, std::string name, ValueId tokens, ValueId table, std::int64_t vocabulary) {
    return graph.apply_one(make_embedding(vocabulary), std::move(name), {tokens, table});
}

} // namespace tessera
