// SPDX-License-Identifier: Apache-2.0
// LAMB and LARS on the GPU; as in update.cu, many tensors in a launch.
#include "kernels/cuda/element_shares.cuh"
#include "kernels/trust.hpp"
#include "kernels/trust_check.hpp"

namespace tessera::kernels {
namespace {

using cuda::Four, cuda::Share;

struct Pointers {
    float* gradient;
    float* weight;
    float* first;  // may be null
    float* second; // may be null
    std::int64_t count;
    int number; // in the lists
    bool aligned;
};
using Table = cuda::TensorTable<Pointers>;

struct Element {
    float gradient, weight, first, second;
};

// rule(element, of_tensor) does a step of one element; of_tensor is what rule.of_tensor(number) finds.
template <class Rule> __global__ void __launch_bounds__(cuda::share_threads)
    trust_kernel(const Table table, Rule rule, const float* __restrict__ factor) {
    const int which = table.of_block(blockIdx.x);
    const Pointers tensor = table.tensor[which];
    if (*factor == 0) return;
    const float of_tensor = rule.of_tensor(tensor.number, *factor);
    cuda::for_shares(blockIdx.x - table.first_block[which], tensor.count, tensor.aligned, [&](const Share& share) {
        Four gradient = share.load(tensor.gradient), weight = share.load(tensor.weight);
        Four first = tensor.first != nullptr ? share.load(tensor.first) : Four{};
        Four second = tensor.second != nullptr ? share.load(tensor.second) : Four{};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            Element element{gradient.element[i], weight.element[i], first.element[i], second.element[i]};
            rule(element, of_tensor);
            gradient.element[i] = element.gradient;
            weight.element[i] = element.weight;
            first.element[i] = element.first;
            second.element[i] = element.second;
        }
        if (Rule::writes_gradient) share.store(tensor.gradient, gradient);
        if (!Rule::writes_gradient) share.store(tensor.weight, weight);
        if (tensor.first != nullptr) share.store(tensor.first, first);
        if (tensor.second != nullptr) share.store(tensor.second, second);
    });
}

struct DirectionRule {
    static constexpr bool writes_gradient = true;
    Lamb f;
    const LambPace* pace;
    __device__ __forceinline__ float of_tensor(int, float factor) const { return factor; }
    __device__ __forceinline__ void operator()(Element& e, float factor) const {
        const float g = __fmul_rn(e.gradient, factor);
        e.first = fmaf(g - e.first, 1 - f.beta1, e.first);
        e.second = fmaf(fmaf(g, g, -e.second), 1 - f.beta2, e.second);
        const float d = e.first * pace->first_factor / fmaf(sqrtf(e.second), pace->root_factor, f.epsilon);
        e.gradient = fmaf(e.weight, f.weight_decay, d);
    }
};

struct StepRule {
    static constexpr bool writes_gradient = false;
    bool adapts;
    const LambPace* pace;
    const float* weight_squares;
    const float* direction_squares;
    __device__ __forceinline__ float of_tensor(int number, float) const {
        if (!adapts) return pace->learning_rate;
        const float weight = sqrtf(weight_squares[number]), direction = sqrtf(direction_squares[number]);
        return weight > 0 && direction > 0 ? pace->learning_rate * (weight / direction) : pace->learning_rate;
    }
    __device__ __forceinline__ void operator()(Element& e, float rate) const {
        e.weight = fmaf(-e.gradient, rate, e.weight);
    }
};

struct LarsRule {
    static constexpr bool writes_gradient = false;
    Lars f;
    bool adapts;
    const float* learning_rate;
    const float* factor;
    const float* weight_squares;
    const float* gradient_squares;
    __device__ __forceinline__ float of_tensor(int number, float by) const {
        if (!adapts) return 1;
        const float weight = sqrtf(weight_squares[number]), gradient = sqrtf(gradient_squares[number]) * by;
        return weight > 0 && gradient > 0 ? f.trust * weight / fmaf(f.weight_decay, weight, gradient) : 1.0f;
    }
    __device__ __forceinline__ void operator()(Element& e, float local) const {
        const float d = fmaf(e.weight, f.weight_decay, __fmul_rn(e.gradient, *factor));
        e.first = fmaf(e.first, f.momentum, __fmul_rn(d, local));
        e.weight = fmaf(-e.first, *learning_rate, e.weight);
    }
};

template <class Rule> void launch(const char* name, CudaStream& stream, const Rule& rule, ConstView factor,
                                  const TrustTensors& tensors, int states) {
    check(name, tensors, states, factor);
    const auto add = [&](Pointers& to, std::size_t i) {
        const std::int64_t count = tensors.weights[i].count();
        to = {cuda::pointer<float>(tensors.gradients[i]),
              cuda::pointer<float>(tensors.weights[i]),
              states > 0 ? cuda::pointer<float>(tensors.first[i]) : nullptr,
              states > 1 ? cuda::pointer<float>(tensors.second[i]) : nullptr,
              count,
              static_cast<int>(i),
              false};
        to.aligned = cuda::aligned({to.gradient, to.weight, to.first, to.second});
        return cuda::blocks(count, cuda::elements_per_block);
    };
    cuda::for_tables<Pointers>(tensors.weights.size(), add, [&](const Table& table) {
        cuda::launch(name, stream, trust_kernel<Rule>, cuda::blocks(table), cuda::share_threads, 0, table, rule,
                     cuda::pointer<float>(factor));
    });
}

const LambPace* pace_of(ConstView pace) { return reinterpret_cast<const LambPace*>(cuda::pointer<float>(pace)); }

} // namespace

void lamb_direction(CudaStream& stream, const Lamb& settings, ConstView pace, ConstView factor,
                    const TrustTensors& tensors) {
    launch("lamb_direction", stream, DirectionRule{settings, pace_of(pace)}, factor, tensors, 2);
}

void lamb_step(CudaStream& stream, bool adapts, ConstView pace, ConstView factor, ConstView weight_squares,
               ConstView direction_squares, const TrustTensors& tensors) {
    const StepRule rule{adapts, pace_of(pace), cuda::pointer<float>(weight_squares),
                        cuda::pointer<float>(direction_squares)};
    launch("lamb_step", stream, rule, factor, tensors, 0);
}

void lars(CudaStream& stream, const Lars& settings, bool adapts, ConstView learning_rate, ConstView factor,
          ConstView weight_squares, ConstView gradient_squares, const TrustTensors& tensors) {
    const LarsRule rule{settings,
                        adapts,
                        cuda::pointer<float>(learning_rate),
                        cuda::pointer<float>(factor),
                        cuda::pointer<float>(weight_squares),
                        cuda::pointer<float>(gradient_squares)};
    launch("lars", stream, rule, factor, tensors, 1);
}

} // namespace tessera::kernels
