// SPDX-License-Identifier: Apache-2.0
// Which graph is written, and what its outputs are.
#include "core/formats/onnx/export.hpp"

#include "core/formats/onnx/file.hpp"
#include "core/formats/onnx/lowering.hpp"
#include "core/model.hpp"

#include <fmt/format.h>

namespace tessera {
namespace {

struct Output {
    std::string name;
    ValueId value;
};

// A language model says itself what its logits are; of the others a loss's first input is what they find.
std::vector<Output> outputs_of(const Model& model) {
    if (model.logits != no_value) return {{"logits", model.logits}};
    std::vector<Output> outputs;
    for (const WeightedLoss& loss : model.losses) {
        const Node& node = model.graph.nodes()[static_cast<std::size_t>(model.graph.value(loss.value).producer)];
        const bool classes = node.op->name().find("cross_entropy") != std::string_view::npos;
        const std::string what = classes ? "logits" : "numbers";
        outputs.push_back({model.losses.size() == 1 ? what : node.name + "." + what, node.inputs[0]});
    }
    return outputs;
}

// A padded vocabulary is written without its padding.
Shape shape_of(const Graph& graph, ValueId id) {
    const Value& value = graph.value(id);
    Shape shape = value.type.shape;
    const Node& node = graph.nodes()[static_cast<std::size_t>(value.producer)];
    if (node.op->name() == "linear" && node.op->attributes().integer("contracted") == 1)
        shape.set(-1, graph.value(node.inputs[1]).shape_outside()[0]);
    return shape;
}

std::string text_of(const OnnxField& field) {
    std::string text = field.name + " (batch";
    for (int dim = 1; dim < field.shape.rank(); ++dim)
        text += fmt::format(", {}", field.shape[dim]);
    return text + ")";
}

} // namespace

WrittenOnnx write_onnx(const Checkpoint& checkpoint, const Config& config, const SampleForm& form,
                       const std::string& path, std::int64_t most_bytes) {
    ModelSizes sizes;
    sizes.sample = form;
    const std::string type = config.get(model_type);
    const bool writes = type != "layers" && type != "vit" && !form.is_labelled_text();
    const Model model = build_model(config, sizes, writes ? Purpose::generate : Purpose::evaluate);
    OnnxGraph graph;
    OnnxWriter writer(model.graph, graph);
    const std::vector<Output> outputs = outputs_of(model);
    std::vector<ValueId> values;
    for (const Output& output : outputs)
        values.push_back(output.value);
    lower_graph(model.graph, values, writer);
    for (const Output& output : outputs)
        graph.add_output(output.name, writer.name_of(output.value), shape_of(model.graph, output.value));
    for (const OnnxTensor& tensor : graph.tensors())
        for (const OnnxPiece& piece : tensor.pieces)
            checkpoint.require(piece.tensor, piece.whole, DType::f32);

    WrittenOnnx written{.nodes = graph.nodes().size()};
    for (const OnnxField& field : graph.inputs())
        written.inputs.push_back(text_of(field));
    for (const OnnxField& field : graph.outputs())
        written.outputs.push_back(text_of(field));
    OnnxFileOptions options{checkpoint.metadata(), most_bytes};
    options.metadata["step"] = fmt::format("{}", checkpoint.step());
    written.beside = write_onnx_file(graph, path, options,
                                     [&](const std::string& tensor, const std::vector<std::int64_t>& start, View part) {
                                         checkpoint.read(tensor, start, part);
                                     });
    return written;
}

} // namespace tessera
