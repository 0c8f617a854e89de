// SPDX-License-Identifier: Apache-2.0
// oneDNN's convolutions as calls that each run on the calling thread alone, so that cutting the work is left to us, and
// with memory of ours. oneDNN promises the same bits for one number of threads on one kind of CPU (issue 1443 of
// uxlfoundation/oneDNN): here that number is always one. In a build without oneDNN no call is found.
#pragma once

#include "kernels/convolution.hpp"

#include <memory>
#include <string>

namespace tessera::kernels {

enum class ConvolutionDirection { forward, input_gradient, weight_gradient };

// Which convolution, of how many images: the shape's batch. Images are always NHWC outside; `blocked`: they are turned
// to the order that oneDNN prefers, and results back.
struct OnednnConvolution {
    Convolution shape;
    DType dtype = DType::f32; // f32 or bf16
    ConvolutionDirection direction = ConvolutionDirection::forward;
    bool blocked = false;
};

class OnednnCall {
public:
    // Made once and kept as long as the process lives. Null where oneDNN has nothing better than plain loops or a
    // gathered product, or is not there. For any thread, as are all others.
    static const OnednnCall* find(const OnednnConvolution& wanted);

    const std::string& name() const;    // of oneDNN's implementation: "jit:avx512_core"
    std::int64_t weights_bytes() const; // in oneDNN's order
    std::int64_t scratch_bytes() const; // of one call

    bool has_weights_of(const OnednnCall& other) const; // in the same order

    // Before the first of what follows; what is compiled stays so. SystemError where oneDNN cannot.
    void compile() const;

    // Ours (K, R, S, C / G) to oneDNN's order; not of a weight's gradient.
    void pack_weights(const void* w, void* to) const;
    // And back, in f32, of a weight's gradient alone.
    void unpack_weights(const void* from, float* dw) const;

    // Reads two of x (dx), packed weights (their gradient, f32) and y (dy), and writes the third. bias: of `filters`,
    // f32; forward alone reads it. All rounding is that of the types: f32 is never computed in fewer bits.
    void run(void* x, void* weights, const float* bias, void* y, void* scratch) const;

    struct State;
    explicit OnednnCall(std::unique_ptr<State> state);
    ~OnednnCall();

private:
    std::unique_ptr<State> state_;
};

} // namespace tessera::kernels
