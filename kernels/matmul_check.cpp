// SPDX-License-Identifier: Apache-2.0
// The checks of products and their sentences.
#include "kernels/matmul_check.hpp"

#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera::kernels {
namespace {

void check_view(const char* name, const ConstView& view, std::int64_t count, DType dtype) {
    if (view.count() != count || view.dtype != dtype || (view.data == nullptr && count > 0))
        throw InternalError(fmt::format("matmul: {} is {} {}, the product has {} {}", name, view.shape.text(),
                                        name_of(view.dtype), count, name_of(dtype)));
}

bool is_aligned(const ConstView& view) { return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0; }

void check_scales(const Matmul& product, const MatmulScales& scales) {
    if (bytes_of(product.input) != 1) {
        if (scales.a || scales.b)
            throw InternalError(fmt::format("matmul: scales are given to factors of {}", name_of(product.input)));
        return;
    }
    check_view("the scale of a", scales.a, 1, DType::f32);
    check_view("the scale of b", scales.b, 1, DType::f32);
}

} // namespace

std::string text_of(const Matmul& product) {
    return fmt::format("{} x {} over {}{}{}, {} to {}{}{}", product.m, product.n, product.k,
                       product.transpose_a ? ", a transposed" : "", product.transpose_b ? ", b transposed" : "",
                       name_of(product.input), name_of(product.output), product.bias ? ", with bias" : "",
                       product.accumulate ? ", accumulating" : "");
}

void check_dtypes(const Matmul& product) {
    const bool inputs = product.input != DType::i32;
    const bool half = product.output == DType::f16
                          ? product.input == DType::f16
                          : product.output == DType::bf16 && product.input != DType::f32 && product.input != DType::f16;
    const bool outputs = product.output == DType::f32 || half;
    if (!inputs || !outputs)
        throw InternalError(fmt::format("no product of {} gives {}", name_of(product.input), name_of(product.output)));
}

void check_operands(const Matmul& product, const ConstView& a, const ConstView& b, const ConstView& bias, const View& c,
                    const View& workspace, std::int64_t workspace_bytes, const MatmulScales& scales) {
    check_dtypes(product);
    check_view("a", a, product.m * product.k, product.input);
    check_view("b", b, product.k * product.n, product.input_b());
    check_view("c", c, product.m * product.n, product.output);
    if (product.bias) check_view("bias", bias, product.n, DType::f32);
    if (!product.bias && bias) throw InternalError("matmul: a bias is given to a product that has none");
    check_scales(product, scales);
    if (bytes_of(product.input) == 1 && !(matmul_fits_f8(product) && is_aligned(a) && is_aligned(b) && is_aligned(c)))
        throw InternalError(
            fmt::format("matmul: 8-bit factors want b transposed, n and k in multiples of 16 and memory "
                        "aligned to 16 bytes, not {}",
                        text_of(product)));
    if (workspace_bytes > 0 && (!workspace || workspace.bytes() < workspace_bytes))
        throw InternalError(fmt::format("matmul: the workspace has {} bytes, {} are wanted",
                                        workspace ? workspace.bytes() : 0, workspace_bytes));
}

} // namespace tessera::kernels
