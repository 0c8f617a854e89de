// SPDX-License-Identifier: Apache-2.0
// A normalisation with its own scale and, for layer_norm, bias.
#include "core/layers/layers.hpp"
#include "core/ops/ops.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

namespace tessera::layers {

Norm norm_named(std::string_view name) {
    if (name == "layer_norm") return Norm::layer_norm;
    if (name == "rms_norm") return Norm::rms_norm;
    throw ConfigError(no_such_name("norm", name, {"layer_norm", "rms_norm"}));
}

ValueId norm(Builder& builder, std::string_view name, Norm kind, bool bias, ResidualStream& stream, double epsilon) {
    Graph& graph = builder.graph();
    const std::string path = builder.path(name);
    const Builder::Scope scope(builder, name);
    const Shape width{graph.value(stream.sum).type.shape[-1]};
    const ValueId scale = builder.vector("scale", width, "norm", 1);
    const ValueId offset = kind == Norm::layer_norm && bias ? builder.vector("bias", width, "norm", 0) : no_value;
    if (stream.branch != no_value) {
        const auto [sum, y] = ops::residual_norm(graph, path, kind, stream.sum, stream.branch, scale, offset, epsilon);
        stream = {sum, no_value};
        return y;
    }
    if (kind == Norm::rms_norm) return ops::rms_norm(graph, path, stream.sum, scale, epsilon);
    return ops::layer_norm(graph, path, stream.sum, scale, offset, epsilon);
}

} // namespace tessera::layers
