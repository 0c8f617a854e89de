// SPDX-License-Identifier: Apache-2.0
// Copies and sums of rows that lie apart, on the CPU.
#include "kernels/rows.hpp"

#include "kernels/cpu/loops.hpp"

namespace tessera::kernels {
namespace {

constexpr std::int64_t elements_per_thread = 65536;

// Rows [begin, end) of all.
template <bool add, class From, class To>
TESSERA_MULTIVERSION void move_rows(const Rows& rows, const From* x, const RowPlaces& from, To* y, const RowPlaces& to,
                                    std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t b = row / rows.rows, r = row % rows.rows;
        const From* source = x + from.first + b * from.batch_step + r * from.row_step;
        To* target = y + to.first + b * to.batch_step + r * to.row_step;
        simd::for_columns(rows.columns, [&](std::int64_t c, auto width) TESSERA_INLINED {
            simd::Floats value = simd::load(source + c, width);
            if constexpr (add) value = simd::load(target + c, width) + value;
            simd::store(target + c, value, width);
        });
    }
}

template <bool add, class From, class To> void run(const CpuStream& stream, const Rows& rows, const ConstView& x,
                                                   const RowPlaces& from, const View& y, const RowPlaces& to) {
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        move_rows<add>(rows, x.as<From>(), from, y.as<To>(), to, begin, end);
    };
    stream.parallel(rows.batch * rows.rows, rows_per_thread(rows.columns, elements_per_thread), std::ref(work));
}

} // namespace

void copy_rows(CpuStream& stream, const Rows& rows, ConstView x, const RowPlaces& from, View y, const RowPlaces& to) {
    with_float_type("copy_rows", x.dtype, [&]<class From>() {
        with_float_type("copy_rows", y.dtype, [&]<class To>() { run<false, From, To>(stream, rows, x, from, y, to); });
    });
}

void accumulate_rows(CpuStream& stream, const Rows& rows, ConstView x, const RowPlaces& from, View y,
                     const RowPlaces& to) {
    with_float_type("accumulate_rows", x.dtype,
                    [&]<class From>() { run<true, From, float>(stream, rows, x, from, y, to); });
}

} // namespace tessera::kernels
