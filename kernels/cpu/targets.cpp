// SPDX-License-Identifier: Apache-2.0
// Targets that count on the CPU, by plain loops: there is one for a whole row of logits.
#include "kernels/targets.hpp"

#include "kernels/check.hpp"

#include <functional>

namespace tessera::kernels {
namespace {

constexpr std::int64_t elements_per_thread = 65536;

} // namespace

void leave_out(CpuStream& stream, std::int32_t left_out, ConstView targets, View y) {
    check_count("leave_out", "y", y, targets.count());
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t n = begin; n < end; ++n) {
            const std::int32_t target = targets.as<std::int32_t>()[n];
            y.as<std::int32_t>()[n] = target == left_out ? ignore_index : target;
        }
    };
    stream.parallel(targets.count(), elements_per_thread, std::ref(work));
}

void target_weights(CpuStream& stream, ConstView targets, ConstView class_weights, View weights) {
    check_count("target_weights", "weights", weights, targets.count());
    const std::int64_t classes = class_weights ? class_weights.count() : 0;
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t n = begin; n < end; ++n) {
            const std::int32_t target = targets.as<std::int32_t>()[n];
            float weight = target == ignore_index ? 0.0f : 1.0f;
            if (class_weights) weight = target >= 0 && target < classes ? class_weights.as<float>()[target] : 0.0f;
            weights.as<float>()[n] = weight;
        }
    };
    stream.parallel(targets.count(), elements_per_thread, std::ref(work));
}

void mean_over_counted(CpuStream&, float units, const CountedMean& of) {
    for (const ConstView& one : {of.counted, of.loss, of.square_sum, ConstView(of.ratio), ConstView(of.mean_loss),
                                 ConstView(of.true_square_sum)})
        check_count("mean_over_counted", "a scalar", one, 1);
    const float counted = *of.counted.as<float>(), ratio = counted > 0 ? units / counted : 0.0f;
    *of.ratio.as<float>() = ratio;
    *of.mean_loss.as<float>() = *of.loss.as<float>() * ratio;
    *of.true_square_sum.as<float>() = *of.square_sum.as<float>() * ratio * ratio;
}

void multiply_scalars(CpuStream&, ConstView a, ConstView b, View product) {
    for (const ConstView& one : {a, b, ConstView(product)})
        check_count("multiply_scalars", "a scalar", one, 1);
    *product.as<float>() = *a.as<float>() * *b.as<float>();
}

} // namespace tessera::kernels
