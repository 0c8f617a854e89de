// SPDX-License-Identifier: Apache-2.0
// Graphs of operations for cuDNN: how the library is told of one, which of its engines may run it, and the call. What
// the graphs compute is said where they are described: cudnn_convolution.cpp, cudnn_attention.cpp.
#pragma once

#include "kernels/library_choices.hpp"
#include "kernels/tensor.hpp"
#include "kernels/window.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace tessera::cuda {

inline constexpr std::int64_t cudnn_alignment = 16;            // bytes: of every tensor in memory
inline constexpr std::int64_t cudnn_workspace_alignment = 256; // bytes

// Operations on tensors of four dims. A graph that the library does not support stays sound: what is said of it
// afterwards is ignored, and no plan is found for it. Any other refusal is a mistake of ours: SystemError.
class CudnnGraph {
public:
    using Dims = std::array<std::int64_t, 4>;
    struct Tensor {
        std::size_t number = 0;
    };

    CudnnGraph();
    CudnnGraph(CudnnGraph&&) noexcept;
    CudnnGraph& operator=(CudnnGraph&&) noexcept;
    ~CudnnGraph();

    // A tensor in memory; `name`, 1 or more, says in a call which. Strides are in elements.
    Tensor stored(std::int64_t name, DType dtype, const Dims& dims, const Dims& strides);
    // One between two operations, never in memory; rounded to its dtype. Without strides: the last dim's lie together.
    Tensor between(DType dtype, const Dims& dims);
    Tensor between(DType dtype, const Dims& dims, const Dims& strides);
    Tensor constant(float value); // (1, 1, 1, 1), f32

    // x, dx: (N, C, H, W)   w, dw: (K, C / G, R, S)   y, dy: (N, K, P, Q)
    // The last operand is the result.
    void convolution(const Window& window, Tensor x, Tensor w, Tensor y);
    void convolution_input_gradient(const Window& window, Tensor dy, Tensor w, Tensor dx);
    void convolution_weight_gradient(const Window& window, Tensor dy, Tensor x, Tensor dw);

    // Elementwise, in f32; a dim of size 1 of b is repeated.
    enum class Unary { identity, exp, log };
    enum class Binary { add, subtract, multiply, divide };
    void apply(Unary function, Tensor x, Tensor y);
    void apply(Binary function, Tensor a, Tensor b, Tensor y);
    // x, with minus infinity where the last index is above the one before it.
    Tensor causal(Tensor x);

    // c = a b over the last two dims. Where b has fewer heads (dim 1) than a, neighbours share one.
    void matmul(Tensor a, Tensor b, Tensor c);
    // Over what y has less of: a whole dim, or neighbouring heads.
    void sum(Tensor x, Tensor y);
    void largest(Tensor x, Tensor y);
    // The last two dims in the other order, rounded to `dtype`.
    Tensor transposed(Tensor x, DType dtype);

    struct Parts; // kernels/cuda/cudnn_parts.hpp
    Parts& parts() const { return *parts_; }

private:
    std::unique_ptr<Parts> parts_;
};

// For whom plans are made.
class CudnnTarget {
public:
    explicit CudnnTarget(CudaStream& stream); // whose library handle the first call makes
    // A GPU that need not be here, in cuDNN's own JSON (CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, cuDNN 9.8). Its
    // plans do not run.
    static CudnnTarget described(const std::string& json);

    struct State;
    State& state() const { return *state_; }

private:
    CudnnTarget() = default;
    std::shared_ptr<State> state_;
};

std::size_t cudnn_version(); // 91300 for 9.13

// What an engine must keep to. None whose bits may differ between runs is ever taken, nor one that sums in less than
// f32 or by Winograd's or Fourier's transform.
struct CudnnLimits {
    std::int64_t workspace_bytes = 0;
    bool full_f32 = false; // factors of f32 are not rounded: no tensor cores
};

struct CudnnOperand {
    std::int64_t name;
    const void* data;
};

// A graph made ready to run, for the stream or description that it was made for.
class CudnnPlan {
public:
    struct State;
    explicit CudnnPlan(std::shared_ptr<State> state) : state_(std::move(state)) {}
    const State& state() const { return *state_; }

    std::string text() const; // "engine 7, 256 bytes of workspace, on tensor cores, compiled for it"

    // In the stream's order. Names every stored tensor of the graph once. The workspace is aligned to
    // cudnn_workspace_alignment.
    void run(CudaStream& stream, std::span<const CudnnOperand> operands, void* workspace) const;
    bool runs(CudaStream& stream, std::span<const CudnnOperand> operands, void* workspace) const; // the same, or false

private:
    std::shared_ptr<State> state_;
};

// The plans within the limits, the library's best guess first, `most` at most.
std::vector<CudnnPlan> cudnn_plans(const CudnnTarget& target, std::shared_ptr<const CudnnGraph> graph,
                                   const CudnnLimits& limits, std::size_t most = 1);

// One call of a kernel that a plan may do.
struct CudnnCall {
    ChoiceWords key; // of all that the graph and the limits depend on
    std::function<CudnnGraph()> describe;
    CudnnLimits limits;
    std::vector<CudnnOperand> operands; // results are overwritten, not added to
    void* workspace = nullptr;
};

// Runs the call by the plan that the first one with its key found; false: there is none, nothing was done, or what was
// is to be done again: cuDNN has failed. Where the stream is to tune (CudaOptions), the first call times several plans,
// and `otherwise`, which does the same without the library: where that is fastest, the answer is false from then on.
// What was settled (kernels/library_choices.hpp) is taken untimed; SystemError where it is not to be had.
bool run_by_cudnn(CudaStream& stream, const CudnnCall& call, const std::function<void()>& otherwise);

} // namespace tessera::cuda
