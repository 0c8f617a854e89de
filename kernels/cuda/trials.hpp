// SPDX-License-Identifier: Apache-2.0
// Calls of kernels on memory of their own, for the sake of what they choose (kernels/library_choices.hpp). Each family
// reads the words that it wrote.
#pragma once

#include "kernels/library_choices.hpp"
#include "kernels/memory.hpp"
#include "kernels/tensor.hpp"

namespace tessera {

namespace cuda {

// Elements with magnitudes from 1/2 to 1 and random bits: zeros multiply faster than numbers.
class TrialOperand {
public:
    TrialOperand(CudaStream& stream, DType dtype, std::int64_t count);
    View view() const;

private:
    Buffer memory_;
    std::int64_t count_;
    DType dtype_;
};

} // namespace cuda

namespace kernels {

void try_product(CudaStream& stream, const ChoiceWords& asked);
void try_convolution(CudaStream& stream, const ChoiceWords& asked);
void try_attention(CudaStream& stream, const ChoiceWords& asked);

} // namespace kernels
} // namespace tessera
