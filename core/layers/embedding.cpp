// SPDX-License-Identifier: Apache-2.0
// Token and, where positions are learned, position embeddings.
#include "core/layers/layers.hpp"
#include "core/ops/ops.hpp"

namespace tessera::layers {

Embedded embedding(Builder& builder, const EmbeddingOptions& options, ValueId tokens) {
    Graph& graph = builder.graph();
    const ValueId table = builder.table("embedding.weight", options.vocabulary, options.width, options.deviation);
    ValueId positions = no_value;
    if (options.learned_positions)
        positions = builder.matrix("position.weight", {graph.value(tokens).type.shape[1], options.width}, "position",
                                   options.deviation);
    ValueId x = ops::embedding(graph, builder.path("embedding"), tokens, table, options.vocabulary);
    if (options.learned_positions) x = ops::add_rows(graph, builder.path("position"), x, positions);
    if (options.dropout != 0 && builder.training())
        x = ops::dropout(graph, builder.path("embedding.dropout"), x, options.dropout);
    return {x, table};
}

} // namespace tessera::layers
