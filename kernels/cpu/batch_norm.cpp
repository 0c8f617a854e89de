// SPDX-License-Identifier: Apache-2.0
// Batch normalisation on the CPU: a block of rows at a time, in which sixteen columns go down the rows with their
// statistics in registers.
#include "kernels/batch_norm.hpp"

#include "kernels/cpu/column_sums.hpp"
#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/vector_math.hpp"

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t elements_per_thread = 32768;

struct Statistics {
    const float* sums;
    const float* squares;
    float share; // one row's, of all
    float epsilon;

    template <class Width> TESSERA_INLINE Floats mean(std::int64_t c, Width width) const {
        return simd::load(sums + c, width) * share;
    }
    template <class Width> TESSERA_INLINE Floats rstd(std::int64_t c, Width width) const {
        return 1.0f / simd::sqrt(simd::load(squares + c, width) * share + epsilon);
    }
};

// Rows [begin, end) of a matrix of so many columns.
struct RowBlock {
    std::int64_t columns, begin, end;
};

template <class T> TESSERA_MULTIVERSION void square_block(const T* x, const float* sums, float share,
                                                          const RowBlock& rows, float* partial) {
    simd::for_columns(rows.columns, [&](std::int64_t c, auto width) TESSERA_INLINED {
        const Floats mean = simd::load(sums + c, width) * share;
        Floats squares{};
        for (std::int64_t r = rows.begin; r < rows.end; ++r) {
            const Floats distance = simd::load(x + r * rows.columns + c, width) - mean;
            squares += distance * distance;
        }
        simd::store(partial + c, squares, width);
    });
}

template <class T> TESSERA_MULTIVERSION void norm_block(const T* x, const Statistics& of, const float* scale,
                                                        const float* bias, const RowBlock& rows, T* y) {
    simd::for_columns(rows.columns, [&](std::int64_t c, auto width) TESSERA_INLINED {
        const Floats mean = of.mean(c, width), offset = simd::load(bias + c, width);
        const Floats factor = of.rstd(c, width) * simd::load(scale + c, width);
        for (std::int64_t r = rows.begin; r < rows.end; ++r) {
            const std::int64_t at = r * rows.columns + c;
            simd::store(y + at, (simd::load(x + at, width) - mean) * factor + offset, width);
        }
    });
}

template <class T> TESSERA_MULTIVERSION void gradient_sums_block(const T* dy, const T* x, const Statistics& of,
                                                                 const RowBlock& rows, float* partial) {
    simd::for_columns(rows.columns, [&](std::int64_t c, auto width) TESSERA_INLINED {
        const Floats mean = of.mean(c, width), rstd = of.rstd(c, width);
        Floats products{}, sums{};
        for (std::int64_t r = rows.begin; r < rows.end; ++r) {
            const std::int64_t at = r * rows.columns + c;
            const Floats g = simd::load(dy + at, width);
            products += g * (simd::load(x + at, width) - mean);
            sums += g;
        }
        simd::store(partial + c, products * rstd, width);
        simd::store(partial + rows.columns + c, sums, width);
    });
}

template <class T> TESSERA_MULTIVERSION void gradient_block(const T* dy, const T* x, const Statistics& of,
                                                            const float* scale, const float* dsums,
                                                            const RowBlock& rows, T* dx) {
    simd::for_columns(rows.columns, [&](std::int64_t c, auto width) TESSERA_INLINED {
        const Floats mean = of.mean(c, width), rstd = of.rstd(c, width);
        const Floats factor = rstd * simd::load(scale + c, width);
        const Floats product = simd::load(dsums + c, width) * of.share * rstd;
        const Floats sum = simd::load(dsums + rows.columns + c, width) * of.share;
        for (std::int64_t r = rows.begin; r < rows.end; ++r) {
            const std::int64_t at = r * rows.columns + c;
            const Floats g = simd::load(dy + at, width) - sum;
            simd::store(dx + at, (g - (simd::load(x + at, width) - mean) * product) * factor, width);
        }
    });
}

struct Sizes {
    std::int64_t rows, columns;
};

Sizes sizes_of(std::string_view kernel, const ConstView& x, const ConstView& sums) {
    const std::int64_t columns = sums.count(), rows = columns == 0 ? 0 : x.count() / columns;
    check_count(kernel, "x", x, rows * columns);
    return {rows, columns};
}

// Of the parts into which threads cut the rows each is worth some blocks, so that no bit depends on the cut.
template <class Work> void for_row_blocks(CpuStream& stream, const Sizes& size, const Work& work) {
    const std::int64_t block = rows_per_block(size.rows);
    const auto pieces = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t b = begin; b < end; ++b)
            work(b, RowBlock{size.columns, b * block, std::min(size.rows, (b + 1) * block)});
    };
    stream.parallel(row_blocks(size.rows), rows_per_thread(block * size.columns, elements_per_thread),
                    std::ref(pieces));
}

Statistics statistics_of(ConstView sums, ConstView squares, std::int64_t rows, float epsilon) {
    return {sums.as<float>(), squares.as<float>(), 1.0f / static_cast<float>(rows), epsilon};
}

} // namespace

void centered_squares(CpuStream& stream, ConstView x, ConstView sums, std::int64_t rows, View squares, View workspace) {
    constexpr std::string_view kernel = "centered_squares";
    const Sizes size = sizes_of(kernel, x, sums);
    check_count(kernel, "squares", squares, size.columns);
    check_workspace(kernel, workspace, batch_norm_workspace_bytes(stream, size.rows, size.columns));
    if (size.rows == 0) return std::fill_n(squares.as<float>(), size.columns, 0.0f), void();
    auto* partial = static_cast<float*>(workspace.memory());
    const float share = 1.0f / static_cast<float>(rows);
    with_float_type(kernel, x.dtype, [&]<class T>() {
        for_row_blocks(stream, size, [&](std::int64_t b, const RowBlock& block) {
            square_block(x.as<T>(), sums.as<float>(), share, block, partial + b * size.columns);
        });
    });
    add_partial_sums(stream, partial, row_blocks(size.rows), size.columns, size.columns, squares.as<float>());
}

void batch_norm(CpuStream& stream, ConstView x, ConstView sums, ConstView squares, std::int64_t rows, ConstView scale,
                ConstView bias, float epsilon, View y) {
    constexpr std::string_view kernel = "batch_norm";
    const Sizes size = sizes_of(kernel, x, sums);
    check_count(kernel, "y", y, x.count());
    check_count(kernel, "squares", squares, size.columns);
    check_count(kernel, "scale", scale, size.columns);
    check_count(kernel, "bias", bias, size.columns);
    const Statistics of = statistics_of(sums, squares, rows, epsilon);
    with_float_type(kernel, x.dtype, [&]<class T>() {
        for_row_blocks(stream, size, [&](std::int64_t, const RowBlock& block) {
            norm_block(x.as<T>(), of, scale.as<float>(), bias.as<float>(), block, y.as<T>());
        });
    });
}

void batch_norm_gradient_sums(CpuStream& stream, ConstView dy, ConstView x, ConstView sums, ConstView squares,
                              std::int64_t rows, float epsilon, View dsums, View workspace) {
    constexpr std::string_view kernel = "batch_norm_gradient_sums";
    const Sizes size = sizes_of(kernel, x, sums);
    check_count(kernel, "dy", dy, x.count());
    check_count(kernel, "squares", squares, size.columns);
    check_count(kernel, "dsums", dsums, 2 * size.columns);
    check_workspace(kernel, workspace, batch_norm_workspace_bytes(stream, size.rows, size.columns));
    if (size.rows == 0) return std::fill_n(dsums.as<float>(), 2 * size.columns, 0.0f), void();
    auto* partial = static_cast<float*>(workspace.memory());
    const Statistics of = statistics_of(sums, squares, rows, epsilon);
    with_float_type(kernel, x.dtype, [&]<class T>() {
        for_row_blocks(stream, size, [&](std::int64_t b, const RowBlock& block) {
            gradient_sums_block(dy.as<T>(), x.as<T>(), of, block, partial + b * 2 * size.columns);
        });
    });
    add_partial_sums(stream, partial, row_blocks(size.rows), 2 * size.columns, 2 * size.columns, dsums.as<float>());
}

void batch_norm_gradient(CpuStream& stream, ConstView dy, ConstView x, ConstView sums, ConstView squares,
                         std::int64_t rows, ConstView scale, ConstView dsums, float epsilon, View dx) {
    constexpr std::string_view kernel = "batch_norm_gradient";
    const Sizes size = sizes_of(kernel, x, sums);
    check_count(kernel, "dy", dy, x.count());
    check_count(kernel, "dx", dx, x.count());
    check_count(kernel, "squares", squares, size.columns);
    check_count(kernel, "scale", scale, size.columns);
    check_count(kernel, "dsums", dsums, 2 * size.columns);
    const Statistics of = statistics_of(sums, squares, rows, epsilon);
    with_float_type(kernel, x.dtype, [&]<class T>() {
        for_row_blocks(stream, size, [&](std::int64_t, const RowBlock& block) {
            gradient_block(dy.as<T>(), x.as<T>(), of, scale.as<float>(), dsums.as<float>(), block, dx.as<T>());
        });
    });
}

std::int64_t batch_norm_workspace_bytes(const CpuStream&, std::int64_t rows, std::int64_t columns) {
    return row_blocks(rows) * 2 * columns * bytes_of(DType::f32);
}

void batch_moments(CpuStream&, ConstView sums, ConstView squares, std::int64_t rows, View moments) {
    const std::int64_t columns = sums.count();
    check_count("batch_moments", "squares", squares, columns);
    check_count("batch_moments", "moments", moments, 3 * columns);
    const auto all = static_cast<float>(rows), others = static_cast<float>(std::max<std::int64_t>(rows - 1, 1));
    auto* to = moments.as<float>();
    for (std::int64_t c = 0; c < columns; ++c) {
        to[c] = sums.as<float>()[c] / all;
        to[columns + c] = squares.as<float>()[c] / others;
        to[2 * columns + c] = 1;
    }
}

void running_statistics(CpuStream&, ConstView moments, ConstView factor, float momentum, View mean, View variance) {
    const std::int64_t columns = mean.count();
    check_count("running_statistics", "moments", moments, 3 * columns);
    check_count("running_statistics", "factor", factor, 1);
    check_count("running_statistics", "variance", variance, columns);
    if (*factor.as<float>() == 0) return;
    const auto* from = moments.as<float>();
    for (std::int64_t c = 0; c < columns; ++c) {
        const float batches = from[2 * columns + c];
        if (batches == 0) continue;
        float &middle = mean.as<float>()[c], &spread = variance.as<float>()[c];
        middle += momentum * (from[c] / batches - middle);
        spread += momentum * (from[columns + c] / batches - spread);
    }
}

} // namespace tessera::kernels
