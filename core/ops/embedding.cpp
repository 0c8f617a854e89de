// SPDX-License-Identifier: Apache-2.0
// embedding: rows of a table chosen by token, and the scatter-add that is its gradient. Rows behind the vocabulary are
// padding: nobody may ask for them, and their gradient is 0.
#include "kernels/embedding.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/copy.hpp"

namespace tessera {
namespace {

// The rows that this rank holds of a table, which is one of the inputs; behind the vocabulary, rows are padding.
kernels::VocabularyShard shard_of(const Operands& a, std::size_t table, std::int64_t vocabulary) {
    return {a.locality == nullptr ? 0 : a.locality->inputs[table].ranges[0].begin, vocabulary};
}

class EmbeddingGradient final : public Op { // tokens, dy, table (where it is, not what it holds) -> dtable
public:
    explicit EmbeddingGradient(std::int64_t vocabulary) : vocabulary_(vocabulary) {}
    std::string_view name() const override { return "embedding_gradient"; }
    bool ignores(std::size_t input) const override { return input == 2; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {{in[2].shape, DType::f32}}; }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const Placement replicate = Placement::replicate();
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim < in[0].shape.rank(); ++dim)
            rules.push_back({{Placement::shard(dim), Placement::shard(dim), replicate}, {Placement::partial()}});
        rules.push_back({{replicate, Placement::partial(), replicate}, {Placement::partial()}});
        rules.push_back({{replicate, replicate, Placement::shard(0)}, {Placement::shard(0)}});
        rules.push_back(
            {{replicate, Placement::shard(in[0].shape.rank()), Placement::shard(1)}, {Placement::shard(1)}});
        return rules;
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType> out) const override {
        return std::visit(
            [&](auto& s) {
                return kernels::embedding_gradient_workspace_bytes(s, in[0].shape.count(), out[0].shape[0]);
            },
            stream);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::embedding_gradient(s, a.inputs[0], a.inputs[1], shard_of(a, 2, vocabulary_), a.outputs[0],
                                            a.workspace);
            },
            stream);
    }

private:
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
        return {no_value, ops::embedding_gradient(graph, node.name + ".gradient", node.inputs[0], dy[0], node.inputs[1],
                                                  vocabulary_)};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim < in[0].shape.rank(); ++dim)
            rules.push_back({{Placement::shard(dim), Placement::replicate()}, {Placement::shard(dim)}});
        rules.push_back({{Placement::replicate(), Placement::shard(0)}, {Placement::partial()}});
        rules.push_back({{Placement::replicate(), Placement::shard(1)}, {Placement::shard(in[0].shape.rank())}});
        return rules;
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::embedding(s, a.inputs[0], a.inputs[1], shard_of(a, 1, vocabulary_), a.outputs[0]);
            },
            stream);
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

ValueId ops::embedding_gradient(Graph& graph, std::string name, ValueId tokens, ValueId dy, ValueId table,
                                std::int64_t vocabulary) {
    return graph.apply_one(std::make_shared<EmbeddingGradient>(vocabulary), std::move(name), {tokens, dy, table});
}

} // namespace tessera
