// SPDX-License-Identifier: Apache-2.0
// What the recurrent kernels check of their views before they run. Host code only.
#pragma once

#include "kernels/recurrent.hpp"

#include <string_view>

namespace tessera::kernels {

// Views of x's type and those of f32, with what each holds. Null views are left out where they may be.
struct RecurrentView {
    std::string_view name;
    ConstView view;
    std::int64_t count;
    bool f32 = false, optional = false;
};

// InternalError "lstm: w has 12 elements, 16 are expected", or for a wrong type or a small workspace.
void check_recurrent(std::string_view kernel, DType dtype, std::initializer_list<RecurrentView> views,
                     const ConstView& workspace, std::int64_t workspace_bytes);

// Elements of the tensors of kernels/recurrent.hpp.
struct RecurrentCounts {
    std::int64_t y, gates, x, w, bias, state;
    RecurrentCounts(const RecurrentSizes& n, std::int64_t gates_of_x)
        : y(n.steps * n.state()), gates(4 * y), x(gates_of_x * y), w(n.directions * gates_of_x * n.hidden * n.hidden),
          bias(n.directions * gates_of_x * n.hidden), state(n.state()) {}
};

} // namespace tessera::kernels
