// SPDX-License-Identifier: Apache-2.0
// Counts and types of the recurrent kernels' views.
#include "kernels/recurrent_check.hpp"

#include "kernels/check.hpp"

namespace tessera::kernels {

void check_recurrent(std::string_view kernel, DType dtype, std::initializer_list<RecurrentView> views,
                     const ConstView& workspace, std::int64_t workspace_bytes) {
    if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) refuse_dtype(kernel, dtype);
    for (const RecurrentView& one : views) {
        if (one.optional && !one.view) continue;
        check_count(kernel, one.name, one.view, one.count);
        if (one.view.dtype != (one.f32 ? DType::f32 : dtype)) refuse_dtype(kernel, one.view.dtype);
    }
    check_workspace(kernel, workspace, workspace_bytes);
}

} // namespace tessera::kernels
