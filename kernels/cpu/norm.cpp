// SPDX-License-Identifier: Apache-2.0
// Layer norm and root-mean-square norm on the CPU: a row stays in the first cache between its passes; the gradients of
// scale and bias are summed by fixed blocks of rows.
#include "kernels/norm.hpp"

#include "kernels/cpu/column_sums.hpp"
#include "kernels/cpu/loops.hpp"

#include <cmath>

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t elements_per_thread = 32768;

// Rows are taken some at a time, one pass over all of them after the other: the sums of one row wait for each other,
// those of several do not. The rows of a batch stay in the first cache.
constexpr std::int64_t largest_batch = 8;
constexpr std::int64_t batch_of(std::int64_t columns) {
    return std::clamp<std::int64_t>(6144 / std::max<std::int64_t>(columns, 1), 1, largest_batch);
}

// What is made of x in the same pass; nothing where `b` is null.
template <class T> struct Sum {
    const T* a;
    const T* b;
    T* x;
};

// Layer norm where `centered`, else root-mean-square norm (mean and bias unused).
template <bool centered, class T>
TESSERA_MULTIVERSION void norm_rows(const Sum<T>& sum, const T* x, const float* scale, const float* bias, float epsilon,
                                    std::int64_t columns, std::int64_t begin, std::int64_t end, T* y, float* mean,
                                    float* rstd) {
    const float share = 1.0f / static_cast<float>(columns);
    const std::int64_t batch = batch_of(columns);
    for (std::int64_t first = begin; first < end; first += batch) {
        const std::int64_t last = std::min(end, first + batch), start = first * columns;
        if (sum.b != nullptr)
            simd::for_columns((last - first) * columns, [&](std::int64_t i, auto width) TESSERA_INLINED {
                const Floats added = simd::load(sum.a + start + i, width) + simd::load(sum.b + start + i, width);
                simd::store(sum.x + start + i, added, width);
            });
        for (std::int64_t r = first; r < last && centered; ++r) {
            Floats sums{};
            simd::for_columns(columns, [&](std::int64_t c, auto width)
                                           TESSERA_INLINED { sums += simd::load(x + r * columns + c, width); });
            mean[r] = simd::sum(sums) * share;
        }
        for (std::int64_t r = first; r < last; ++r) {
            const float middle = centered ? mean[r] : 0.0f;
            Floats squares{};
            simd::for_columns(columns, [&](std::int64_t c, auto width) TESSERA_INLINED {
                const Floats distance = simd::load(x + r * columns + c, width, middle) - middle;
                squares += distance * distance;
            });
            rstd[r] = 1.0f / std::sqrt(simd::sum(squares) * share + epsilon);
        }
        for (std::int64_t r = first; r < last; ++r) {
            const float middle = centered ? mean[r] : 0.0f, factor = rstd[r];
            simd::for_columns(columns, [&](std::int64_t c, auto width) TESSERA_INLINED {
                const Floats h = (simd::load(x + r * columns + c, width) - middle) * factor;
                Floats value = h * simd::load(scale + c, width);
                if (centered && bias != nullptr) value += simd::load(bias + c, width);
                simd::store(y + r * columns + c, value, width);
            });
        }
    }
}

// dx of rows [begin, end), dsum added to it where `summed`, and their part of dscale and, where centered, dbias.
template <bool centered, bool summed, class T>
TESSERA_MULTIVERSION void norm_gradient_rows(const T* x, const float* scale, const float* mean, const float* rstd,
                                             const T* dy, const T* dsum, std::int64_t columns, std::int64_t begin,
                                             std::int64_t end, T* dx, float* dscale, float* dbias) {
    const float share = 1.0f / static_cast<float>(columns);
    const std::int64_t batch = batch_of(2 * columns);
    std::fill_n(dscale, columns, 0.0f);
    if constexpr (centered) std::fill_n(dbias, columns, 0.0f);
    for (std::int64_t first = begin; first < end; first += batch) {
        const std::int64_t last = std::min(end, first + batch);
        float mean_of_g[largest_batch], mean_of_product[largest_batch];
        for (std::int64_t r = first; r < last; ++r) {
            const float middle = centered ? mean[r] : 0.0f, factor = rstd[r];
            Floats sums{}, products{};
            simd::for_columns(columns, [&](std::int64_t c, auto width) TESSERA_INLINED {
                const Floats h = (simd::load(x + r * columns + c, width) - middle) * factor;
                const Floats g =
                    simd::load(dy + r * columns + c, width) * simd::load(scale + c, width); // 0 beyond the row
                if constexpr (centered) sums += g;
                products += g * h;
            });
            mean_of_g[r - first] = centered ? simd::sum(sums) * share : 0.0f;
            mean_of_product[r - first] = simd::sum(products) * share;
        }
        for (std::int64_t r = first; r < last; ++r) {
            const float middle = centered ? mean[r] : 0.0f, factor = rstd[r];
            const float g_share = mean_of_g[r - first], product_share = mean_of_product[r - first];
            simd::for_columns(columns, [&](std::int64_t c, auto width) TESSERA_INLINED {
                const Floats h = (simd::load(x + r * columns + c, width) - middle) * factor;
                const Floats g = simd::load(dy + r * columns + c, width);
                simd::store(dscale + c, simd::load(dscale + c, width) + g * h, width);
                if constexpr (centered) simd::store(dbias + c, simd::load(dbias + c, width) + g, width);
                Floats value = g * simd::load(scale + c, width);
                if constexpr (centered) value -= g_share;
                value = (value - h * product_share) * factor;
                if constexpr (summed) value += simd::load(dsum + r * columns + c, width);
                simd::store(dx + r * columns + c, value, width);
            });
        }
    }
}

struct Sizes {
    std::int64_t rows;
    std::int64_t columns;
};

// Rows and columns of x, from the count of scale.
Sizes sizes_of(std::string_view kernel, const ConstView& x, const ConstView& scale) {
    const std::int64_t columns = scale.count();
    const std::int64_t rows = columns == 0 ? 0 : x.count() / columns;
    check_count(kernel, "x", x, rows * columns);
    return {rows, columns};
}

struct Addition {
    ConstView a, b;
    View sum;
};

// Where `summed`, x is the sum of the addition, which is made here.
template <bool centered, bool summed> void forward(CpuStream& stream, std::string_view kernel, const Addition& added,
                                                   ConstView x, ConstView scale, ConstView bias, float epsilon, View y,
                                                   View mean, View rstd) {
    const auto [rows, columns] = sizes_of(kernel, x, scale);
    if (summed) {
        check_count(kernel, "a", added.a, x.count());
        check_count(kernel, "b", added.b, x.count());
    }
    check_count(kernel, "y", y, x.count());
    check_count(kernel, "rstd", rstd, rows);
    if (centered) check_count(kernel, "mean", mean, rows);
    if (bias) check_count(kernel, "bias", bias, columns);
    with_float_type(kernel, x.dtype, [&, rows = rows, columns = columns]<class T>() {
        const Sum<T> sum = summed ? Sum<T>{added.a.as<T>(), added.b.as<T>(), added.sum.as<T>()} : Sum<T>{};
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            norm_rows<centered>(sum, x.as<T>(), scale.as<float>(), bias.as<float>(), epsilon, columns, begin, end,
                                y.as<T>(), mean.as<float>(), rstd.as<float>());
        };
        stream.parallel(rows, rows_per_thread(columns, elements_per_thread), std::ref(work));
    });
}

template <bool centered, bool summed> void backward(CpuStream& stream, std::string_view kernel, ConstView x,
                                                    ConstView scale, ConstView mean, ConstView rstd, ConstView dy,
                                                    ConstView dsum, View dx, View dscale, View dbias, View workspace) {
    const auto [rows, columns] = sizes_of(kernel, x, scale);
    check_count(kernel, "dy", dy, x.count());
    if (summed) check_count(kernel, "dsum", dsum, x.count());
    check_count(kernel, "dx", dx, x.count());
    check_count(kernel, "rstd", rstd, rows);
    if (centered) check_count(kernel, "mean", mean, rows);
    check_count(kernel, "dscale", dscale, columns);
    if (dbias) check_count(kernel, "dbias", dbias, columns);
    check_workspace(kernel, workspace, norm_gradient_workspace_bytes(stream, rows, columns));
    if (rows == 0) {
        std::fill_n(dscale.as<float>(), columns, 0.0f);
        if (dbias) std::fill_n(dbias.as<float>(), columns, 0.0f);
        return;
    }
    auto* partial = static_cast<float*>(workspace.memory());
    const std::int64_t block = rows_per_block(rows), blocks = row_blocks(rows);
    with_float_type(kernel, x.dtype, [&, rows = rows, columns = columns]<class T>() {
        const T* added = summed ? dsum.as<T>() : nullptr;
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t b = begin; b < end; ++b)
                norm_gradient_rows<centered, summed>(x.as<T>(), scale.as<float>(), mean.as<float>(), rstd.as<float>(),
                                                     dy.as<T>(), added, columns, b * block,
                                                     std::min(rows, (b + 1) * block), dx.as<T>(),
                                                     partial + b * 2 * columns, partial + (b * 2 + 1) * columns);
        };
        stream.parallel(blocks, rows_per_thread(block * columns, elements_per_thread), std::ref(work));
    });
    add_partial_sums(stream, partial, blocks, 2 * columns, columns, dscale.as<float>());
    if (dbias) add_partial_sums(stream, partial + columns, blocks, 2 * columns, columns, dbias.as<float>());
}

} // namespace

void layer_norm(CpuStream& stream, ConstView x, ConstView scale, ConstView bias, float epsilon, View y, View mean,
                View rstd) {
    forward<true, false>(stream, "layer_norm", {}, x, scale, bias, epsilon, y, mean, rstd);
}

void layer_norm_gradient(CpuStream& stream, ConstView x, ConstView scale, ConstView mean, ConstView rstd, ConstView dy,
                         View dx, View dscale, View dbias, View workspace) {
    backward<true, false>(stream, "layer_norm_gradient", x, scale, mean, rstd, dy, {}, dx, dscale, dbias, workspace);
}

void rms_norm(CpuStream& stream, ConstView x, ConstView scale, float epsilon, View y, View rstd) {
    forward<false, false>(stream, "rms_norm", {}, x, scale, {}, epsilon, y, {}, rstd);
}

void rms_norm_gradient(CpuStream& stream, ConstView x, ConstView scale, ConstView rstd, ConstView dy, View dx,
                       View dscale, View workspace) {
    backward<false, false>(stream, "rms_norm_gradient", x, scale, {}, rstd, dy, {}, dx, dscale, {}, workspace);
}

void add_layer_norm(CpuStream& stream, ConstView a, ConstView b, ConstView scale, ConstView bias, float epsilon,
                    View sum, View y, View mean, View rstd) {
    forward<true, true>(stream, "add_layer_norm", {a, b, sum}, sum, scale, bias, epsilon, y, mean, rstd);
}

void add_rms_norm(CpuStream& stream, ConstView a, ConstView b, ConstView scale, float epsilon, View sum, View y,
                  View rstd) {
    forward<false, true>(stream, "add_rms_norm", {a, b, sum}, sum, scale, {}, epsilon, y, {}, rstd);
}

void add_layer_norm_gradient(CpuStream& stream, ConstView sum, ConstView scale, ConstView mean, ConstView rstd,
                             ConstView dy, ConstView dsum, View dx, View dscale, View dbias, View workspace) {
    backward<true, true>(stream, "add_layer_norm_gradient", sum, scale, mean, rstd, dy, dsum, dx, dscale, dbias,
                         workspace);
}

void add_rms_norm_gradient(CpuStream& stream, ConstView sum, ConstView scale, ConstView rstd, ConstView dy,
                           ConstView dsum, View dx, View dscale, View workspace) {
    backward<false, true>(stream, "add_rms_norm_gradient", sum, scale, {}, rstd, dy, dsum, dx, dscale, {}, workspace);
}

std::int64_t norm_gradient_workspace_bytes(const CpuStream&, std::int64_t rows, std::int64_t columns) {
    return row_blocks(rows) * 2 * columns * bytes_of(DType::f32);
}

} // namespace tessera::kernels
