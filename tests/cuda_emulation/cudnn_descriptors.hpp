// SPDX-License-Identifier: Apache-2.0
// What the substitute of cuDNN keeps behind a descriptor, and a plan's work on it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cudnn.h>
#include <map>
#include <vector>

namespace tessera::emulation::cudnn {

using Dims = std::array<std::int64_t, 4>;

// Attributes as they were set, in bytes.
struct Attribute {
    cudnnBackendAttributeType_t type;
    std::int64_t count;
    std::vector<std::byte> bytes;
};

struct Descriptor {
    cudnnBackendDescriptorType_t type;
    bool finalized = false;
    std::map<cudnnBackendAttributeName_t, Attribute> attributes{};

    bool has(cudnnBackendAttributeName_t name) const { return attributes.count(name) != 0; }
    template <class Value> Value value(cudnnBackendAttributeName_t name, std::size_t i = 0) const {
        return reinterpret_cast<const Value*>(attributes.at(name).bytes.data())[i];
    }
    const Descriptor& other(cudnnBackendAttributeName_t name, std::size_t i = 0) const {
        return *static_cast<const Descriptor*>(value<void*>(name, i));
    }
    std::int64_t count(cudnnBackendAttributeName_t name) const { return has(name) ? attributes.at(name).count : 0; }
};

// A tensor's descriptor, read.
struct Tensor {
    std::int64_t number;
    cudnnDataType_t type;
    Dims dims, strides;
    std::int64_t alignment;
    bool is_virtual, by_value;

    explicit Tensor(const Descriptor& descriptor);
    std::int64_t count() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
    std::int64_t extent() const; // elements from the first to behind the last
};
std::size_t bytes_of(cudnnDataType_t type);

// The tensors of an operation, inputs first; empty for a type that is none that the substitute knows.
struct OperandNames {
    std::vector<cudnnBackendAttributeName_t> inputs;
    cudnnBackendAttributeName_t function; // the convolution, the product… that it does; or an operand, if none
    cudnnBackendAttributeName_t output;
};
const OperandNames* operands_of(const Descriptor& operation);

// What a descriptor may be told.
struct Rule {
    cudnnBackendDescriptorType_t of;
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    std::int64_t least, most; // values; least 0: it need not be said
};
std::vector<Rule> rules_of(const Descriptor& descriptor);

// Whether the shapes and types of an operation fit together.
bool fits(const Descriptor& operation);

// Does what a finalized operation graph says, on memory named by the tensors' numbers. `tf32`: factors of f32 keep 10
// bits of their mantissas.
void run(const Descriptor& graph, const std::map<std::int64_t, void*>& memory, bool tf32);

} // namespace tessera::emulation::cudnn
