// SPDX-License-Identifier: Apache-2.0
// Attention on the GPU: checks, the choice between the variants, and the deltas that our gradients need.
#include "kernels/attention.hpp"
#include "kernels/cuda/attention_heads.cuh"
#include "kernels/cuda/attention_variants.hpp"
#include "kernels/cuda/cudnn_attention.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/trials.hpp"

#include <algorithm>

namespace tessera::kernels {
namespace {

constexpr int delta_threads = 256;
constexpr std::int64_t largest_tensor_core_dim = 128;

// deltas[b,h,t] = sum_d dy[b,t,h,d] * y[b,t,h,d] (Dao 2023, "D"); `lanes` neighbours share a row, a power of two.
template <class T, int width> __global__ void __launch_bounds__(delta_threads)
    delta_kernel(const T* __restrict__ y, const T* __restrict__ dy, float* __restrict__ deltas, AttentionHeads heads,
                 int lanes, std::int64_t row_count) {
    const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * delta_threads + threadIdx.x;
    const std::int64_t row = thread / lanes;
    const int lane = static_cast<int>(thread % lanes);
    float sum = 0;
    if (row < row_count)
        for (int d = lane * width; d < heads.head_dim; d += lanes * width) {
            cuda::Vector<T> left, right;
            if constexpr (width == 1) {
                left.element[0] = y[row * heads.head_dim + d];
                right.element[0] = dy[row * heads.head_dim + d];
            } else {
                left = cuda::load_vector(y + row * heads.head_dim + d);
                right = cuda::load_vector(dy + row * heads.head_dim + d);
            }
#pragma unroll
            for (int i = 0; i < width; ++i)
                sum += cuda::to_float(left.element[i]) * cuda::to_float(right.element[i]);
        }
    for (int distance = lanes / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(cuda::all_lanes, sum, distance);
    if (row >= row_count || lane != 0) return;
    const std::int64_t token = row / heads.heads; // of all sequences
    const std::int64_t head = token / heads.tokens * heads.heads + row % heads.heads;
    deltas[head * heads.tokens + token % heads.tokens] = sum;
}

template <class T, int width> void launch_deltas(CudaStream& stream, const AttentionShape& shape, const ConstView& y,
                                                 const ConstView& dy, const View& deltas) {
    int lanes = 1;
    while (lanes < 32 && lanes * width < shape.head_dim)
        lanes *= 2;
    const std::int64_t rows = shape.row_count();
    cuda::launch("attention_deltas", stream, delta_kernel<T, width>, cuda::blocks(rows * lanes, delta_threads),
                 delta_threads, 0, cuda::pointer<T>(y), cuda::pointer<T>(dy), cuda::pointer<float>(deltas),
                 AttentionHeads(shape), lanes, rows);
}

bool aligned(const ConstView& view) { return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0; }

void find_deltas(CudaStream& stream, const AttentionShape& shape, const ConstView& y, const ConstView& dy,
                 const View& deltas) {
    cuda::with_float_type("attention_gradient", y.dtype, [&]<class T>() {
        constexpr int width = cuda::Vector<T>::count;
        if (shape.head_dim % width == 0 && aligned(y) && aligned(dy))
            launch_deltas<T, width>(stream, shape, y, dy, deltas);
        else
            launch_deltas<T, 1>(stream, shape, y, dy, deltas);
    });
}

// The largest score is the largest product only where the scale is above 0.
bool takes_tensor_cores(AttentionVariant variant, const AttentionShape& shape, DType dtype) {
    return variant != AttentionVariant::general && dtype != DType::f32 && shape.scale > 0 && shape.head_dim % 8 == 0 &&
           shape.head_dim <= largest_tensor_core_dim;
}

void attention_by_us(CudaStream& stream, AttentionVariant variant, const AttentionShape& shape, const ConstView& qkv,
                     const View& y, const View& log_sum_exp) {
    if (takes_tensor_cores(variant, shape, qkv.dtype) && aligned(qkv) && aligned(y))
        attention_on_tensor_cores(stream, shape, qkv, y, log_sum_exp);
    else
        attention_general(stream, shape, qkv, y, log_sum_exp);
}

void gradient_by_us(CudaStream& stream, AttentionVariant variant, const AttentionShape& shape, const ConstView& qkv,
                    const ConstView& y, const ConstView& dy, const ConstView& log_sum_exp, const View& dqkv,
                    const View& deltas) {
    find_deltas(stream, shape, y, dy, deltas);
    if (takes_tensor_cores(variant, shape, qkv.dtype) && aligned(qkv) && aligned(dy) && aligned(dqkv))
        attention_gradient_on_tensor_cores(stream, shape, qkv, dy, log_sum_exp, deltas, dqkv);
    else
        attention_gradient_general(stream, shape, qkv, dy, log_sum_exp, deltas, dqkv);
}

// The library's part of a workspace, behind `bytes` of our own: at a multiple of 256 bytes, the room for which it has.
void* library_part(const View& workspace, std::int64_t bytes) {
    const auto address = reinterpret_cast<std::uintptr_t>(workspace.memory()) + static_cast<std::uintptr_t>(bytes);
    constexpr auto alignment = static_cast<std::uintptr_t>(cuda::cudnn_workspace_alignment);
    return reinterpret_cast<void*>((address + alignment - 1) / alignment * alignment);
}

std::int64_t deltas_bytes(const AttentionShape& shape) { return shape.row_count() * 4; }

// Whether the library is asked; where a stream is to tune it may be the fastest.
bool asks_library(const CudaStream& stream, AttentionVariant variant, const AttentionShape& shape, DType dtype) {
    const bool library =
        variant == AttentionVariant::library || (variant == AttentionVariant::fastest && stream.state().options.tune);
    return library && cuda::attention_fits_cudnn(shape, dtype);
}

} // namespace

void try_attention(CudaStream& stream, const ChoiceWords& asked) {
    const auto [part, dtype, shape] = cuda::asked_attention(asked);
    const bool forward = part == cuda::AttentionPart::forward;
    const std::int64_t bytes = forward ? attention_workspace_bytes(stream, shape, dtype)
                                       : attention_gradient_workspace_bytes(stream, shape, dtype);
    const cuda::TrialOperand qkv(stream, dtype, shape.qkv_count()), y(stream, dtype, shape.y_count());
    const cuda::TrialOperand logarithms(stream, DType::f32, shape.row_count());
    const cuda::TrialOperand workspace(stream, DType::f32, (bytes + 3) / 4);
    if (forward) return attention(stream, shape, qkv.view(), y.view(), logarithms.view(), workspace.view());
    const cuda::TrialOperand dy(stream, dtype, shape.y_count()), dqkv(stream, dtype, shape.qkv_count());
    attention_gradient(stream, shape, qkv.view(), y.view(), dy.view(), logarithms.view(), dqkv.view(),
                       workspace.view());
}

std::int64_t attention_workspace_bytes(const CudaStream& stream, AttentionVariant variant, const AttentionShape& shape,
                                       DType dtype) {
    check_attention(shape, dtype);
    if (!asks_library(stream, variant, shape, dtype)) return 0;
    cuda::note_asked(stream, cuda::asked_words(cuda::AttentionPart::forward, shape, dtype));
    return cuda::cudnn_workspace_alignment + cuda::attention_plan_bytes;
}

std::int64_t attention_gradient_workspace_bytes(const CudaStream& stream, AttentionVariant variant,
                                                const AttentionShape& shape, DType dtype) {
    check_attention(shape, dtype);
    if (!asks_library(stream, variant, shape, dtype)) return deltas_bytes(shape);
    cuda::note_asked(stream, cuda::asked_words(cuda::AttentionPart::gradient, shape, dtype));
    return deltas_bytes(shape) + cuda::cudnn_workspace_alignment + cuda::attention_gradient_plan_bytes(shape);
}

void attention(CudaStream& stream, AttentionVariant variant, const AttentionShape& shape, ConstView qkv, View y,
               View log_sum_exp, View workspace) {
    check_attention(shape, qkv, y, log_sum_exp);
    check_workspace("attention", workspace, attention_workspace_bytes(stream, variant, shape, qkv.dtype));
    const auto ours = [&] { attention_by_us(stream, variant, shape, qkv, y, log_sum_exp); };
    if (!asks_library(stream, variant, shape, qkv.dtype) ||
        !cuda::attention_by_cudnn(stream, shape, qkv, y, log_sum_exp, library_part(workspace, 0), ours))
        ours();
}

void attention_gradient(CudaStream& stream, AttentionVariant variant, const AttentionShape& shape, ConstView qkv,
                        ConstView y, ConstView dy, ConstView log_sum_exp, View dqkv, View workspace) {
    check_attention_gradient(shape, qkv, y, dy, log_sum_exp, dqkv);
    check_workspace("attention_gradient", workspace,
                    attention_gradient_workspace_bytes(stream, variant, shape, qkv.dtype));
    const View deltas(workspace.memory(), {shape.row_count()}, DType::f32);
    const auto ours = [&] { gradient_by_us(stream, variant, shape, qkv, y, dy, log_sum_exp, dqkv, deltas); };
    if (!asks_library(stream, variant, shape, qkv.dtype) ||
        !cuda::attention_gradient_by_cudnn(stream, shape, qkv, y, dy, log_sum_exp, dqkv, deltas,
                                           library_part(workspace, deltas_bytes(shape)), ours))
        ours();
}

std::int64_t attention_workspace_bytes(const CudaStream& stream, const AttentionShape& shape, DType dtype) {
    return attention_workspace_bytes(stream, AttentionVariant::fastest, shape, dtype);
}

std::int64_t attention_gradient_workspace_bytes(const CudaStream& stream, const AttentionShape& shape, DType dtype) {
    return attention_gradient_workspace_bytes(stream, AttentionVariant::fastest, shape, dtype);
}

void attention(CudaStream& stream, const AttentionShape& shape, ConstView qkv, View y, View log_sum_exp,
               View workspace) {
    attention(stream, AttentionVariant::fastest, shape, qkv, y, log_sum_exp, workspace);
}

void attention_gradient(CudaStream& stream, const AttentionShape& shape, ConstView qkv, ConstView y, ConstView dy,
                        ConstView log_sum_exp, View dqkv, View workspace) {
    attention_gradient(stream, AttentionVariant::fastest, shape, qkv, y, dy, log_sum_exp, dqkv, workspace);
}

std::int64_t cross_attention_workspace_bytes(const CudaStream&, const CrossAttentionShape& shape, DType dtype) {
    check_cross_attention(shape, dtype);
    return 0;
}

std::int64_t cross_attention_gradient_workspace_bytes(const CudaStream&, const CrossAttentionShape& shape,
                                                      DType dtype) {
    check_cross_attention(shape, dtype);
    return (shape.row_count() + bias_gradient_count(shape)) * 4; // the deltas, and parts of the bias's gradient
}

void cross_attention(CudaStream& stream, const CrossAttentionShape& shape, const CrossAttentionInputs& in, View y,
                     View log_sum_exp, View) {
    check_cross_attention(shape, in, y, log_sum_exp);
    cross_attention_general(stream, shape, in, y, log_sum_exp);
}

void cross_attention_gradient(CudaStream& stream, const CrossAttentionShape& shape, const CrossAttentionInputs& in,
                              ConstView y, ConstView dy, ConstView log_sum_exp, const CrossAttentionGradients& out,
                              View workspace) {
    check_cross_attention_gradient(shape, in, y, dy, log_sum_exp, out);
    check_workspace("cross_attention_gradient", workspace,
                    cross_attention_gradient_workspace_bytes(stream, shape, in.q.dtype));
    const View deltas(workspace.memory(), {shape.row_count()}, DType::f32);
    const View dbias(static_cast<float*>(workspace.memory()) + shape.row_count(), {bias_gradient_count(shape)},
                     DType::f32);
    find_deltas(stream, {shape.batch, shape.queries, shape.heads, shape.heads, shape.head_dim}, y, dy, deltas);
    cross_attention_gradient_general(stream, shape, in, dy, log_sum_exp, deltas, out, dbias);
}

} // namespace tessera::kernels
