// SPDX-License-Identifier: Apache-2.0
// A tensor of a run as the host reads and writes it: the memory itself on a CPU, a copy of it on a GPU.
#pragma once

#include "kernels/memory.hpp"
#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"

namespace tessera {

// `stream` and the tensor's memory must outlive it. On a GPU the copy's values are undefined until load().
class HostCopy {
public:
    HostCopy(Stream& stream, const View& tensor);

    View view() const {
        return {memory_.bytes() > 0 ? memory_.data() : tensor_.memory(), tensor_.shape, tensor_.dtype};
    }
    void load();  // from the tensor, after all work of the stream
    void store(); // to the tensor

private:
    Stream& stream_;
    View tensor_;
    Buffer memory_; // empty on a CPU
};

// The value of a tensor of one f32.
float number(Stream& stream, const View& tensor);

} // namespace tessera
