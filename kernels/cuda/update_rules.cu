// SPDX-License-Identifier: Apache-2.0
// Adagrad, RMSProp and Lion on the GPU; as in update.cu, many tensors in a launch.
#include "kernels/cuda/element_shares.cuh"
#include "kernels/update_rules.hpp"
#include "kernels/update_rules_check.hpp"

namespace tessera::kernels {
namespace {

using cuda::Four, cuda::Share;

struct Pointers {
    const float* gradient;
    float* weight;
    float* first;
    float* second; // may be null
    std::int64_t count;
    bool aligned;
};
using Table = cuda::TensorTable<Pointers>;

struct Element {
    float gradient, weight, first, second;
};

// rule(element, rate) does a step of one element, whose gradient is the clipped one.
template <class Rule> __global__ void __launch_bounds__(cuda::share_threads)
    rule_kernel(const Table table, Rule rule, const float* __restrict__ learning_rate,
                const float* __restrict__ factor) {
    const int which = table.of_block(blockIdx.x);
    const Pointers tensor = table.tensor[which];
    const float clip = *factor, rate = *learning_rate;
    if (clip == 0) return;
    cuda::for_shares(blockIdx.x - table.first_block[which], tensor.count, tensor.aligned, [&](const Share& share) {
        const Four gradient = share.load(tensor.gradient);
        Four weight = share.load(tensor.weight), first = share.load(tensor.first);
        Four second = tensor.second != nullptr ? share.load(tensor.second) : Four{};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            Element element{__fmul_rn(gradient.element[i], clip), weight.element[i], first.element[i],
                            second.element[i]};
            rule(element, rate);
            weight.element[i] = element.weight;
            first.element[i] = element.first;
            second.element[i] = element.second;
        }
        share.store(tensor.weight, weight);
        share.store(tensor.first, first);
        if (tensor.second != nullptr) share.store(tensor.second, second);
    });
}

struct AdagradRule {
    Adagrad f;
    __device__ __forceinline__ void operator()(Element& e, float rate) const {
        const float g = fmaf(e.weight, f.weight_decay, e.gradient);
        e.first = fmaf(g, g, e.first);
        e.weight -= __fmul_rn(g, rate) / (sqrtf(e.first) + f.epsilon);
    }
};

struct RmsPropRule {
    RmsProp f;
    __device__ __forceinline__ void operator()(Element& e, float rate) const {
        const float g = fmaf(e.weight, f.weight_decay, e.gradient);
        e.first = fmaf(fmaf(g, g, -e.first), 1 - f.alpha, e.first);
        e.second = fmaf(e.second, f.momentum, g / (sqrtf(e.first) + f.epsilon));
        e.weight = fmaf(-e.second, rate, e.weight);
    }
};

struct LionRule {
    Lion f;
    __device__ __forceinline__ void operator()(Element& e, float rate) const {
        const float way = e.gradient - e.first;
        const float c = fmaf(way, 1 - f.beta1, e.first);
        const float sign = c > 0 ? 1.0f : c < 0 ? -1.0f : c; // 0 stays 0, and NaN itself
        e.first = fmaf(way, 1 - f.beta2, e.first);
        e.weight = fmaf(-sign, rate, __fmul_rn(e.weight, fmaf(-rate, f.weight_decay, 1.0f)));
    }
};

template <class Rule> void launch(const char* name, CudaStream& stream, const Rule& rule, ConstView learning_rate,
                                  ConstView factor, const RuleTensors& tensors, bool with_second) {
    check(name, tensors, learning_rate, factor, with_second);
    const auto add = [&](Pointers& to, std::size_t i) {
        const std::int64_t count = tensors.weights[i].count();
        to = {cuda::pointer<float>(tensors.gradients[i]),
              cuda::pointer<float>(tensors.weights[i]),
              cuda::pointer<float>(tensors.first[i]),
              with_second ? cuda::pointer<float>(tensors.second[i]) : nullptr,
              count,
              false};
        to.aligned = cuda::aligned({to.gradient, to.weight, to.first, to.second});
        return cuda::blocks(count, cuda::elements_per_block);
    };
    cuda::for_tables<Pointers>(tensors.weights.size(), add, [&](const Table& table) {
        cuda::launch(name, stream, rule_kernel<Rule>, cuda::blocks(table), cuda::share_threads, 0, table, rule,
                     cuda::pointer<float>(learning_rate), cuda::pointer<float>(factor));
    });
}

} // namespace

void adagrad(CudaStream& stream, const Adagrad& settings, ConstView learning_rate, ConstView factor,
             const RuleTensors& tensors) {
    launch("adagrad", stream, AdagradRule{settings}, learning_rate, factor, tensors, false);
}

void rmsprop(CudaStream& stream, const RmsProp& settings, ConstView learning_rate, ConstView factor,
             const RuleTensors& tensors) {
    launch("rmsprop", stream, RmsPropRule{settings}, learning_rate, factor, tensors, settings.momentum != 0);
}

void lion(CudaStream& stream, const Lion& settings, ConstView learning_rate, ConstView factor,
          const RuleTensors& tensors) {
    launch("lion", stream, LionRule{settings}, learning_rate, factor, tensors, false);
}

} // namespace tessera::kernels
