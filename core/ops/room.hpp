// SPDX-License-Identifier: Apache-2.0
// Tensors one behind the other in a workspace. Private to core/ops.
#pragma once

#include "kernels/memory.hpp"
#include "kernels/tensor.hpp"

#include <cstddef>

namespace tessera {

// Without memory it only measures.
class Room {
public:
    explicit Room(std::byte* memory = nullptr) : memory_(memory) {}
    View take(const Shape& shape, DType dtype) {
        const View view(memory_ == nullptr ? nullptr : memory_ + bytes_, shape, dtype);
        bytes_ += align_up(view.bytes());
        return view;
    }
    std::int64_t bytes() const { return bytes_; }

private:
    std::byte* memory_;
    std::int64_t bytes_ = 0;
};

} // namespace tessera
