// SPDX-License-Identifier: Apache-2.0
// Work on many tensors in one launch: a table of them is a parameter of the kernel, and a block finds its tensor there.
#pragma once

#include "kernels/cuda/launch.cuh"

namespace tessera::cuda {

// `Tensor` is what a kernel wants to know of one: pointers and sizes. A kernel's parameters have 4 KB; 512 bytes are
// left to the others.
template <class Tensor> struct TensorTable {
    static constexpr int capacity = static_cast<int>((4096 - 512) / (sizeof(Tensor) + sizeof(unsigned)));

    int count = 0;
    unsigned first_block[capacity + 1] = {}; // of each tensor, and the number of all blocks
    Tensor tensor[capacity];

    // The tensor that a block works on.
    __device__ __forceinline__ int of_block(unsigned block) const {
        int low = 0, high = count; // first_block[low] <= block < first_block[high]
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            (first_block[middle] <= block ? low : high) = middle;
        }
        return low;
    }
};

// Calls launch(table) for as many tables as it takes. add(tensor, i) fills in the i-th of `count` tensors and returns
// its number of blocks; one without is left out.
template <class Tensor, class Add, class Launch>
void for_tables(std::size_t count, const Add& add, const Launch& launch) {
    TensorTable<Tensor> table;
    for (std::size_t i = 0; i < count; ++i) {
        const unsigned blocks = add(table.tensor[table.count], i);
        if (blocks == 0) continue;
        const unsigned first = table.first_block[table.count++];
        table.first_block[table.count] = first + blocks;
        if (table.count < TensorTable<Tensor>::capacity) continue;
        launch(std::as_const(table));
        table.count = 0;
    }
    if (table.count > 0) launch(std::as_const(table));
}

template <class Tensor> unsigned blocks(const TensorTable<Tensor>& table) { return table.first_block[table.count]; }

} // namespace tessera::cuda
