// SPDX-License-Identifier: Apache-2.0
// cuDNN's descriptors with one owner each, their attributes by type, and the checked call. For the two sources that
// speak to the library: cudnn_graph.cpp and cudnn_plan.cpp.
#pragma once

#include "kernels/cuda/cudnn.hpp"

#include <cudnn.h>
#include <deque>

namespace tessera::cuda {

// "cudnnBackendFinalize failed: CUDNN_STATUS_BAD_PARAM: strides[0] < 1"
std::string cudnn_failure(cudnnStatus_t status, const char* call);
// Throws SystemError with it.
void check_cudnn(cudnnStatus_t status, const char* call);

// "not supported", which is no mistake.
bool is_unsupported(cudnnStatus_t status);

struct DestroyDescriptor {
    void operator()(void* descriptor) const { cudnnBackendDestroyDescriptor(descriptor); }
};

class Descriptor {
public:
    explicit Descriptor(cudnnBackendDescriptorType_t type);

    void* get() const { return handle_.get(); }
    cudnnStatus_t finalize() const { return cudnnBackendFinalize(handle_.get()); }

    void set(cudnnBackendAttributeName_t name, std::int64_t value) { set(name, CUDNN_TYPE_INT64, 1, &value); }
    void set(cudnnBackendAttributeName_t name, float value) { set(name, CUDNN_TYPE_FLOAT, 1, &value); }
    void set(cudnnBackendAttributeName_t name, bool value) { set(name, CUDNN_TYPE_BOOLEAN, 1, &value); }
    void set(cudnnBackendAttributeName_t name, cudnnDataType_t value) { set(name, CUDNN_TYPE_DATA_TYPE, 1, &value); }
    void set(cudnnBackendAttributeName_t name, std::span<const std::int64_t> values) {
        set(name, CUDNN_TYPE_INT64, static_cast<std::int64_t>(values.size()), values.data());
    }
    void refer(cudnnBackendAttributeName_t name, const Descriptor& other) {
        void* const handle = other.get();
        set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &handle);
    }
    void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count,
             const void* values);

private:
    std::unique_ptr<void, DestroyDescriptor> handle_;
};

struct CudnnGraph::Parts {
    struct Known {
        Descriptor descriptor;
        DType dtype;
        Dims dims, strides;
    };
    struct Constant {
        std::int64_t name;
        float value;
    };
    std::vector<Known> tensors;
    std::deque<Descriptor> others; // what operations refer to
    std::vector<Descriptor> operations;
    std::vector<Constant> constants;
    bool supported = true;
};

} // namespace tessera::cuda
