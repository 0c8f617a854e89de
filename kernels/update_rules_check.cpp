// SPDX-License-Identifier: Apache-2.0
#include "kernels/update_rules_check.hpp"

#include "kernels/check.hpp"

namespace tessera::kernels {

void check(const char* kernel, const RuleTensors& tensors, ConstView learning_rate, ConstView factor,
           bool with_second) {
    check_count(kernel, "the learning rate", learning_rate, 1);
    check_count(kernel, "the factor", factor, 1);
    const auto check_like = [&](const char* name, std::span<const View> views) {
        check_tensors(kernel, name, views.size(), tensors.weights.size());
        for (std::size_t i = 0; i < tensors.weights.size(); ++i)
            check_count(kernel, name, views[i], tensors.weights[i].count());
    };
    check_like("the gradients", tensors.gradients);
    check_like("the first states", tensors.first);
    if (with_second) check_like("the second states", tensors.second);
}

} // namespace tessera::kernels
