// SPDX-License-Identifier: Apache-2.0
// Optimizer steps on the GPU: as many tensors in a launch as its parameters hold. An element is computed by the same
// instructions whether its memory is aligned or not, and products are fused with sums only where it is written so.
#include "kernels/cuda/element_shares.cuh"
#include "kernels/cuda/tensor_table.cuh"
#include "kernels/update.hpp"
#include "kernels/update_step.hpp"

#include <cfloat>

namespace tessera::kernels {
namespace {

using cuda::elements_per_block, cuda::for_shares, cuda::Four, cuda::Share;
constexpr int threads = cuda::share_threads;

struct AdamPointers {
    const float* gradient;
    float* weight;
    float* first;
    float* second;
    __nv_bfloat16* copy; // may be null
    std::int64_t count;
    bool aligned;
};

__global__ void __launch_bounds__(threads)
    adam_kernel(const cuda::TensorTable<AdamPointers> table, AdamFactors f, const AdamPace* __restrict__ pace,
                const float* __restrict__ factor) {
    const int which = table.of_block(blockIdx.x);
    const AdamPointers tensor = table.tensor[which];
    const float clip = *factor, shrink = pace->shrink, step_size = pace->step_size, root_factor = pace->root_factor;
    if (clip == 0) return;
    for_shares(blockIdx.x - table.first_block[which], tensor.count, tensor.aligned, [&](const Share& share) {
        const Four gradient = share.load(tensor.gradient);
        Four weight = share.load(tensor.weight), first = share.load(tensor.first), second = share.load(tensor.second);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float w = weight.element[i];
            const float g = fmaf(w, f.coupled_decay, __fmul_rn(gradient.element[i], clip));
            const float m = fmaf(g - first.element[i], f.first_share, first.element[i]);
            const float v = fmaf(fmaf(g, g, -second.element[i]), f.second_share, second.element[i]);
            const float change = __fmul_rn(m, step_size) / fmaf(sqrtf(v), root_factor, f.epsilon);
            first.element[i] = m;
            second.element[i] = v;
            weight.element[i] = fmaf(w, shrink, -change);
        }
        share.store(tensor.weight, weight);
        share.store(tensor.first, first);
        share.store(tensor.second, second);
        if (tensor.copy != nullptr) share.store(tensor.copy, weight);
    });
}

struct SgdPointers {
    const float* gradient;
    float* weight;
    float* velocity;     // null without momentum
    __nv_bfloat16* copy; // may be null
    std::int64_t count;
    bool aligned;
};

__global__ void __launch_bounds__(threads)
    sgd_kernel(const cuda::TensorTable<SgdPointers> table, Sgd settings, const float* __restrict__ learning_rate,
               const float* __restrict__ factor) {
    const int which = table.of_block(blockIdx.x);
    const SgdPointers tensor = table.tensor[which];
    const float clip = *factor, rate = *learning_rate;
    if (clip == 0) return;
    const bool momentum = tensor.velocity != nullptr;
    for_shares(blockIdx.x - table.first_block[which], tensor.count, tensor.aligned, [&](const Share& share) {
        const Four gradient = share.load(tensor.gradient);
        Four weight = share.load(tensor.weight);
        Four velocity = momentum ? share.load(tensor.velocity) : Four{};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float w = weight.element[i];
            const float g = fmaf(w, settings.weight_decay, __fmul_rn(gradient.element[i], clip));
            const float v = momentum ? fmaf(velocity.element[i], settings.momentum, g) : g;
            const float change = momentum && settings.nesterov ? fmaf(v, settings.momentum, g) : v;
            velocity.element[i] = v;
            weight.element[i] = fmaf(-change, rate, w);
        }
        share.store(tensor.weight, weight);
        if (momentum) share.store(tensor.velocity, velocity);
        if (tensor.copy != nullptr) share.store(tensor.copy, weight);
    });
}

__global__ void clip_factor_kernel(const float* square_sum, float max_norm, float* norm, float* factor) {
    const float root = sqrtf(*square_sum);
    const float wanted = max_norm / (root + 1e-6f);
    *norm = root;
    *factor = !(root <= FLT_MAX) ? 0.0f : max_norm <= 0 || wanted > 1 ? 1.0f : wanted;
}

} // namespace

void clip_factor(CudaStream& stream, ConstView square_sum, float max_norm, View norm, View factor) {
    check_count("clip_factor", "the sum", square_sum, 1);
    check_count("clip_factor", "the norm", norm, 1);
    check_count("clip_factor", "the factor", factor, 1);
    cuda::launch("clip_factor", stream, clip_factor_kernel, 1, 1, 0, cuda::pointer<float>(square_sum), max_norm,
                 cuda::pointer<float>(norm), cuda::pointer<float>(factor));
}

void adam(CudaStream& stream, const Adam& settings, ConstView pace, ConstView factor, const AdamTensors& tensors) {
    check(tensors, pace, factor);
    const auto* now = reinterpret_cast<const AdamPace*>(cuda::pointer<float>(pace));
    const auto add = [&](AdamPointers& to, std::size_t i) {
        const std::int64_t count = tensors.weights[i].count();
        to = {cuda::pointer<float>(tensors.gradients[i]),
              cuda::pointer<float>(tensors.weights[i]),
              cuda::pointer<float>(tensors.first_moments[i]),
              cuda::pointer<float>(tensors.second_moments[i]),
              cuda::pointer<__nv_bfloat16>(copy_of(tensors.low_precision_copies, i)),
              count,
              false};
        to.aligned = cuda::aligned({to.gradient, to.weight, to.first, to.second, to.copy});
        return cuda::blocks(count, elements_per_block);
    };
    cuda::for_tables<AdamPointers>(tensors.weights.size(), add, [&](const cuda::TensorTable<AdamPointers>& table) {
        cuda::launch("adam", stream, adam_kernel, cuda::blocks(table), threads, 0, table, factors_of(settings), now,
                     cuda::pointer<float>(factor));
    });
}

void sgd(CudaStream& stream, const Sgd& settings, ConstView learning_rate, ConstView factor,
         const SgdTensors& tensors) {
    const bool stored = settings.momentum != 0;
    check(tensors, learning_rate, factor, stored);
    const auto add = [&](SgdPointers& to, std::size_t i) {
        const std::int64_t count = tensors.weights[i].count();
        to = {cuda::pointer<float>(tensors.gradients[i]),
              cuda::pointer<float>(tensors.weights[i]),
              stored ? cuda::pointer<float>(tensors.velocities[i]) : nullptr,
              cuda::pointer<__nv_bfloat16>(copy_of(tensors.low_precision_copies, i)),
              count,
              false};
        to.aligned = cuda::aligned({to.gradient, to.weight, to.velocity, to.copy});
        return cuda::blocks(count, elements_per_block);
    };
    cuda::for_tables<SgdPointers>(tensors.weights.size(), add, [&](const cuda::TensorTable<SgdPointers>& table) {
        cuda::launch("sgd", stream, sgd_kernel, cuda::blocks(table), threads, 0, table, settings,
                     cuda::pointer<float>(learning_rate), cuda::pointer<float>(factor));
    });
}

} // namespace tessera::kernels
