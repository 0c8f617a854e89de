// SPDX-License-Identifier: Apache-2.0
// Names, and constants that are there once.
#include "core/formats/onnx/graph.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tessera {

void OnnxGraph::add_output(const std::string& name, const std::string& value, const Shape& shape) {
    nodes_.push_back({"Identity", name, {value}, {name}, {}});
    outputs_.push_back({name, shape});
}

std::vector<std::string> OnnxGraph::add(const std::string& scope, std::string op, std::vector<std::string> inputs,
                                        OnnxAttributes attributes, std::size_t outputs) {
    std::string name = scope + "/" + op;
    if (const std::size_t use = uses_[name]++; use > 0) name += fmt::format("_{}", use);
    std::vector<std::string> made{name + ":0"};
    for (std::size_t i = 1; i < outputs; ++i)
        made.push_back(fmt::format("{}:{}", name, i));
    nodes_.push_back({std::move(op), std::move(name), std::move(inputs), made, std::move(attributes)});
    return made;
}

std::string OnnxGraph::scalar(float value) { return floats(fmt::format("number/{}", value), {}, {value}); }

std::string OnnxGraph::integer(std::int64_t value) { return integers({}, {value}); }

std::string OnnxGraph::integers(const std::vector<std::int64_t>& values) {
    return integers({static_cast<std::int64_t>(values.size())}, values);
}

std::string OnnxGraph::integers(const Shape& shape, std::vector<std::int64_t> values) {
    return once(fmt::format("{} {}", shape.text(), fmt::join(values, ",")), [&] {
        std::string name = fmt::format("integers/{}", tensors_.size());
        add_tensor({name, shape, {}, std::move(values)});
        return name;
    });
}

std::string OnnxGraph::floats(const std::string& name, const Shape& shape, std::vector<float> values) {
    add_tensor({name, shape, {}, std::move(values)});
    return name;
}

const OnnxTensor* OnnxGraph::tensor(const std::string& name) const {
    const auto found = tensor_names_.find(name);
    return found == tensor_names_.end() ? nullptr : &tensors_[found->second];
}

void OnnxGraph::add_tensor(OnnxTensor tensor) {
    if (tensor_names_.emplace(tensor.name, tensors_.size()).second) tensors_.push_back(std::move(tensor));
}

} // namespace tessera
