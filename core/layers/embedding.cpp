// SPDX-License-Identifier: Apache-2.0
// Token and learned position embeddings.
#include "core/layers/layers.hpp"
#include "core/ops/ops.hpp"

namespace tessera::layers {

Embedded embedding(Builder& builder, const EmbeddingOptions& options, ValueId tokens) {
    Graph& graph = builder.graph();
    const std::int64_t time = graph.value(tokens).type.shape[1];
    const ValueId table = builder.table("embedding.weight", options.vocabulary, options.width, options.deviation);
    const ValueId positions = builder.matrix("position.weight", {time, options.width}, "position", options.deviation);
    const ValueId token = ops::embedding(graph, builder.path("embedding"), tokens, table, options.vocabulary);
    ValueId x = ops::add_rows(graph, builder.path("position"), token, positions);
    if (options.dropout != 0 && builder.training())
        x = ops::dropout(graph, builder.path("embedding.dropout"), x, options.dropout);
    return {x, table};
}

} // namespace tessera::layers
