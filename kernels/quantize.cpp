// SPDX-License-Identifier: Apache-2.0
// The checks of quantize.
#include "kernels/quantize.hpp"

#include "kernels/check.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera::kernels {

RowsAndColumns check_quantized(const ConstView& x, const Quantized& result) {
    if (x.dtype != DType::f32 && x.dtype != DType::bf16) refuse_dtype("quantize", x.dtype);
    const auto check_result = [&](const char* name, const View& view) {
        if (!view) return;
        check_count("quantize", name, view, x.count());
        if (view.dtype != result.dtype())
            throw InternalError(
                fmt::format("quantize: {} is {}, the other {}", name, name_of(view.dtype), name_of(result.dtype())));
    };
    if (bytes_of(result.dtype()) != 1)
        throw InternalError(fmt::format("quantize: to {}, expected f8e4m3 or f8e5m2", name_of(result.dtype())));
    check_result("y", result.y);
    check_result("transposed", result.transposed);
    for (const View& view : {result.amax, result.scale}) {
        check_count("quantize", "amax or scale", view, 1);
        if (view.dtype != DType::f32) throw InternalError("quantize: amax and scale are f32");
    }
    const std::int64_t columns = x.shape.rank() == 0 ? 1 : x.shape[-1];
    return {columns == 0 ? 0 : x.count() / columns, columns};
}

} // namespace tessera::kernels
