// SPDX-License-Identifier: Apache-2.0
// Protocol buffers by their wire format, a few lines, and no library of theirs: Debian's libsentencepiece brings one of
// another version along, and both in one program crash. Weights come last, each with its length before it, so that none
// need be in memory.
#include "core/formats/onnx/file.hpp"

#include "core/checkpoint/walk.hpp"
#include "core/formats/new_file.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <limits>

namespace tessera {
namespace {

constexpr std::int64_t ir_version = 8;                               // of opset 17
constexpr std::int64_t f32_tensor = 1, i64_tensor = 7;               // TensorProto.DataType
constexpr std::int64_t external = 1;                                 // TensorProto.DataLocation
constexpr int graph_field = 7, tensor_field = 5, raw_data_field = 9; // of ModelProto, GraphProto, TensorProto

std::int64_t size_of(const std::string& text) { return static_cast<std::int64_t>(text.size()); }

// A message of onnx.proto in its wire format; fields are appended by their numbers.
class Message {
public:
    const std::string& bytes() const { return bytes_; }

    void add(int field, std::int64_t value) {
        tag(field, 0);
        varint(static_cast<std::uint64_t>(value));
    }
    void add_f32(int field, float value) {
        tag(field, 5);
        for (int byte = 0; byte < 4; ++byte)
            bytes_ += static_cast<char>(std::bit_cast<std::uint32_t>(value) >> 8 * byte & 0xff);
    }
    void add(int field, const std::string& text) {
        start(field, size_of(text));
        bytes_ += text;
    }
    void add(int field, const Message& message) { add(field, message.bytes_); }
    void start(int field, std::int64_t bytes) { // of what follows
        tag(field, 2);
        varint(static_cast<std::uint64_t>(bytes));
    }

private:
    void tag(int field, int kind) { varint(static_cast<std::uint64_t>(field) << 3 | static_cast<std::uint64_t>(kind)); }
    void varint(std::uint64_t value) {
        for (; value >= 0x80; value >>= 7)
            bytes_ += static_cast<char>((value & 0x7f) | 0x80);
        bytes_ += static_cast<char>(value);
    }

    std::string bytes_;
};

Message entry(const std::string& key, const std::string& value) { // StringStringEntryProto
    Message message;
    message.add(1, key);
    message.add(2, value);
    return message;
}

Message described(const OnnxField& field) { // ValueInfoProto
    Message shape, tensor, type, info;
    for (int dim = 0; dim < field.shape.rank(); ++dim) {
        Message one;
        if (dim == 0)
            one.add(2, std::string("batch"));
        else
            one.add(1, field.shape[dim]);
        shape.add(1, one);
    }
    tensor.add(1, field.integers ? i64_tensor : f32_tensor);
    tensor.add(2, shape);
    type.add(1, tensor);
    info.add(1, field.name);
    info.add(2, type);
    return info;
}

Message described(const std::string& name, const OnnxAttribute& value) { // AttributeProto
    constexpr std::int64_t number = 1, integer = 2, string = 3, integers = 7;
    constexpr int type = 20;
    Message attribute;
    attribute.add(1, name);
    if (const auto* one = std::get_if<std::int64_t>(&value)) {
        attribute.add(3, *one);
        attribute.add(type, integer);
    } else if (const auto* real = std::get_if<double>(&value)) {
        attribute.add_f32(2, static_cast<float>(*real));
        attribute.add(type, number);
    } else if (const auto* text = std::get_if<std::string>(&value)) {
        attribute.add(4, *text);
        attribute.add(type, string);
    } else {
        for (const std::int64_t each : std::get<std::vector<std::int64_t>>(value))
            attribute.add(8, each);
        attribute.add(type, integers);
    }
    return attribute;
}

Message described(const OnnxNode& node) { // NodeProto
    Message message;
    for (const std::string& input : node.inputs)
        message.add(1, input);
    for (const std::string& output : node.outputs)
        message.add(2, output);
    message.add(3, node.name);
    message.add(4, node.op);
    for (const auto& [name, value] : node.attributes)
        message.add(5, described(name, value));
    return message;
}

Message described(const OnnxTensor& tensor) { // TensorProto, without its elements
    Message message;
    for (int dim = 0; dim < tensor.shape.rank(); ++dim)
        message.add(1, tensor.shape[dim]);
    message.add(2, !tensor.is_weight() && tensor.constants.index() == 0 ? i64_tensor : f32_tensor);
    message.add(8, tensor.name);
    return message;
}

Message constant(const OnnxTensor& tensor) {
    Message message = described(tensor);
    std::visit(
        [&](const auto& values) {
            std::string raw(values.size() * sizeof values[0], '\0');
            std::memcpy(raw.data(), values.data(), raw.size());
            message.add(raw_data_field, raw);
        },
        tensor.constants);
    return message;
}

Message described(const OnnxGraph& from) { // GraphProto, without weights
    Message graph;
    for (const OnnxNode& node : from.nodes())
        graph.add(1, described(node));
    graph.add(2, std::string("tessera"));
    for (const OnnxTensor& tensor : from.tensors())
        if (!tensor.is_weight()) graph.add(tensor_field, constant(tensor));
    for (const OnnxField& field : from.inputs())
        graph.add(11, described(field));
    for (const OnnxField& field : from.outputs())
        graph.add(12, described(field));
    return graph;
}

Message described(const OnnxFileOptions& options) { // ModelProto, without its graph
    Message model, opset;
    model.add(1, ir_version);
    model.add(2, std::string("tessera"));
    opset.add(2, onnx_opset);
    model.add(8, opset);
    for (const auto& [key, value] : options.metadata)
        model.add(14, entry(key, value));
    return model;
}

using Take = std::function<void(const View&)>;

// Pieces of a tensor as they lie.
void read_plain(const OnnxPiece& piece, const ReadWeights& read, const Take& take) {
    PieceMemory memory;
    for (const TensorPiece& part : pieces_of(piece.box, DType::f32)) {
        std::vector<std::int64_t> start = piece.start;
        for (std::size_t dim = 0; dim < start.size(); ++dim)
            start[dim] += part.box.start[dim];
        const View view = memory.view(part, DType::f32);
        read(piece.tensor, start, view);
        take(view);
    }
}

// The elements of `box`, whose dims lie in this order, in the order of `order`.
void reorder(const std::vector<float>& from, const Shape& box, const std::vector<int>& order, std::vector<float>& to) {
    std::vector<std::int64_t> strides(order.size()), sizes(order.size()), index(order.size(), 0);
    for (std::size_t i = 0; i < order.size(); ++i) {
        strides[i] = box.count(order[i] + 1, box.rank());
        sizes[i] = box[order[i]];
    }
    std::int64_t at = 0;
    for (float& element : to) {
        element = from[static_cast<std::size_t>(at)];
        for (std::size_t dim = order.size(); dim-- > 0;) {
            at += strides[dim];
            if (++index[dim] < sizes[dim]) break;
            at -= strides[dim] * sizes[dim];
            index[dim] = 0;
        }
    }
}

// Slices of what becomes the first dim, each reordered in memory.
void read_reordered(const OnnxPiece& piece, const ReadWeights& read, const Take& take) {
    constexpr std::int64_t most_elements = 4 << 20;
    const int first = piece.order[0];
    const std::int64_t all = piece.box[first], of_one = piece.box.count() / std::max<std::int64_t>(all, 1);
    const std::int64_t most = std::max<std::int64_t>(1, most_elements / std::max<std::int64_t>(of_one, 1));
    std::vector<float> found, made;
    for (std::int64_t done = 0; done < all; done += most) {
        Shape box = piece.box;
        box.set(first, std::min(most, all - done));
        std::vector<std::int64_t> start = piece.start;
        start[static_cast<std::size_t>(first)] += done;
        found.resize(static_cast<std::size_t>(box.count()));
        made.resize(found.size());
        read(piece.tensor, start, View(found.data(), box, DType::f32));
        reorder(found, box, piece.order, made);
        take(View(made.data(), {box.count()}, DType::f32));
    }
}

void write_weights(const OnnxTensor& tensor, const ReadWeights& read, NewFile& file) {
    const Take take = [&](const View& part) { file.write(part.data, part.bytes()); };
    for (const OnnxPiece& piece : tensor.pieces)
        piece.order.empty() ? read_plain(piece, read, take) : read_reordered(piece, read, take);
}

std::int64_t bytes_in(const OnnxTensor& tensor) { return tensor.shape.count() * bytes_of(DType::f32); }

struct CodedTensor {
    const OnnxTensor* tensor;
    std::string before; // all that comes before its elements
};

CodedTensor coded(const OnnxTensor& tensor) {
    Message content = described(tensor), whole;
    content.start(raw_data_field, bytes_in(tensor));
    whole.start(tensor_field, size_of(content.bytes()) + bytes_in(tensor));
    return {&tensor, whole.bytes() + content.bytes()};
}

void write_in_one(Message model, const OnnxGraph& graph, const std::string& path, const ReadWeights& read) {
    const Message of_graph = described(graph);
    std::vector<CodedTensor> weights;
    std::int64_t bytes = size_of(of_graph.bytes());
    for (const OnnxTensor& tensor : graph.tensors())
        if (tensor.is_weight()) bytes += size_of(weights.emplace_back(coded(tensor)).before) + bytes_in(tensor);
    if (bytes > std::numeric_limits<std::int32_t>::max())
        throw InternalError(fmt::format("an ONNX graph of {} bytes in one file", bytes));
    NewFile file(path);
    const auto write = [&](const std::string& text) { file.write(text.data(), size_of(text)); };
    model.start(graph_field, bytes);
    write(model.bytes());
    write(of_graph.bytes());
    for (const CodedTensor& one : weights) {
        write(one.before);
        write_weights(*one.tensor, read, file);
    }
    file.finish();
}

void write_beside(Message model, const OnnxGraph& graph, const std::string& path, const ReadWeights& read) {
    const std::string beside = path + ".data";
    NewFile data(beside), file(path);
    Message of_graph = described(graph);
    std::int64_t offset = 0;
    for (const OnnxTensor& tensor : graph.tensors()) {
        if (!tensor.is_weight()) continue;
        write_weights(tensor, read, data);
        Message message = described(tensor);
        message.add(13, entry("location", std::filesystem::path(beside).filename().string()));
        message.add(13, entry("offset", std::to_string(offset)));
        message.add(13, entry("length", std::to_string(bytes_in(tensor))));
        message.add(14, external);
        of_graph.add(tensor_field, message);
        offset += bytes_in(tensor);
    }
    model.add(graph_field, of_graph);
    file.write(model.bytes().data(), size_of(model.bytes()));
    data.finish();
    file.finish();
}

} // namespace

bool write_onnx_file(const OnnxGraph& graph, const std::string& path, const OnnxFileOptions& options,
                     const ReadWeights& read) {
    std::int64_t bytes = 0;
    for (const OnnxTensor& tensor : graph.tensors())
        if (tensor.is_weight()) bytes += bytes_in(tensor);
    const bool two = bytes > options.most_bytes;
    two ? write_beside(described(options), graph, path, read) : write_in_one(described(options), graph, path, read);
    return two;
}

} // namespace tessera
