// SPDX-License-Identifier: Apache-2.0
// A graph of ONNX operators (opset 17) in the making: names of values, nodes, constants, and weights that still lie in
// a checkpoint. Knows nothing of files: onnx/file.hpp writes it.
#pragma once

#include "kernels/tensor.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace tessera {

// Elements of a checkpoint's tensor: the box of these sizes from `start` on, its dims in another order.
struct OnnxPiece {
    std::string tensor; // its name
    Shape whole;        // of the tensor
    std::vector<std::int64_t> start;
    Shape box;
    std::vector<int> order; // dim i is the box's dim order[i]; empty: as they are
};

// An initializer: pieces one behind the other (f32), or constants.
struct OnnxTensor {
    std::string name;
    Shape shape;
    std::vector<OnnxPiece> pieces{};
    std::variant<std::vector<std::int64_t>, std::vector<float>> constants{};

    bool is_weight() const { return !pieces.empty(); }
};

using OnnxAttribute = std::variant<std::int64_t, double, std::string, std::vector<std::int64_t>>;
using OnnxAttributes = std::vector<std::pair<std::string, OnnxAttribute>>;

struct OnnxNode {
    std::string op, name;
    std::vector<std::string> inputs, outputs; // "": an input that is left out
    OnnxAttributes attributes;
};

// The first dim is the batch, of any size.
struct OnnxField {
    std::string name;
    Shape shape;
    bool integers = false; // i64, else f32
};

class OnnxGraph {
public:
    void add_input(OnnxField field) { inputs_.push_back(std::move(field)); }
    // The value, of this shape, under this name.
    void add_output(const std::string& name, const std::string& value, const Shape& shape);

    // Appends a node whose first output's name is made of `scope`, the layer's, and the operator's. Returns its
    // outputs' names.
    std::vector<std::string> add(const std::string& scope, std::string op, std::vector<std::string> inputs,
                                 OnnxAttributes attributes, std::size_t outputs = 1);

    // Constants, each once.
    std::string scalar(float value);
    std::string integer(std::int64_t value); // of rank 0
    std::string integers(const std::vector<std::int64_t>& values);
    std::string integers(const Shape& shape, std::vector<std::int64_t> values);
    std::string floats(const std::string& name, const Shape& shape, std::vector<float> values); // the name says all

    // A value that many layers want, made once: make() returns its name.
    template <typename Make> std::string once(const std::string& key, const Make& make) {
        const auto found = once_.find(key);
        if (found != once_.end()) return found->second;
        std::string made = make();
        once_.emplace(key, made);
        return made;
    }

    const OnnxTensor* tensor(const std::string& name) const; // null: there is none
    void add_tensor(OnnxTensor tensor);                      // not where there is one of its name

    const std::vector<OnnxField>& inputs() const { return inputs_; }
    const std::vector<OnnxField>& outputs() const { return outputs_; }
    const std::vector<OnnxNode>& nodes() const { return nodes_; }
    const std::vector<OnnxTensor>& tensors() const { return tensors_; }

private:
    std::vector<OnnxField> inputs_, outputs_;
    std::vector<OnnxNode> nodes_;
    std::vector<OnnxTensor> tensors_;
    std::map<std::string, std::size_t> tensor_names_, uses_; // of names of nodes
    std::map<std::string, std::string> once_;
};

} // namespace tessera
