// SPDX-License-Identifier: Apache-2.0
// Rounding by chance on the GPU.
#include "kernels/stochastic_cast.hpp"

#include "kernels/cuda/philox.cuh"
#include "kernels/cuda/piece.cuh"

namespace tessera::kernels {
namespace {

constexpr int threads = 256;

struct Draws {
    std::uint64_t stream;        // of the random key
    std::uint64_t first_group;   // of the logical tensor, in which the view begins
    std::int64_t first_in_group; // element of it
};

__device__ __forceinline__ __nv_bfloat16 rounded(float value, std::uint32_t word) {
    const unsigned bits = __float_as_uint(value);
    if ((bits & 0x7f800000u) == 0x7f800000u) return cuda::from_float<__nv_bfloat16>(value);
    return cuda::from_float<__nv_bfloat16>(__uint_as_float((bits + (word >> 16)) & 0xffff0000u)); // exact
}

// A thread makes `width` neighbouring blocks: of each of their four words, `width` neighbouring elements.
template <int width> __global__ void __launch_bounds__(threads)
    cast_kernel(Draws draws, const Draw* __restrict__ draw, std::int64_t items, std::int64_t count,
                const float* __restrict__ x, __nv_bfloat16* __restrict__ y) {
    constexpr int per_group = cuda::random_run / width;
    const PhiloxKey key{{draw->seed_low ^ static_cast<std::uint32_t>(draws.stream),
                         draw->seed_high ^ static_cast<std::uint32_t>(draws.stream >> 32)}};
    const std::uint64_t step = std::uint64_t{draw->step_high} << 32 | draw->step_low;
    const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (item >= items) return;
    const std::int64_t group = item / per_group;
    const int in_run = static_cast<int>(item % per_group) * width;
    const std::int64_t start = group * random_group - draws.first_in_group + in_run; // negative before the view
    cuda::RandomWords words[width];
#pragma unroll
    for (int i = 0; i < width; ++i)
        words[i] = cuda::random_words_of(key, step,
                                         (draws.first_group + static_cast<std::uint64_t>(group)) * cuda::random_run +
                                             static_cast<std::uint64_t>(in_run + i));
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        const std::int64_t at = start + w * cuda::random_run;
        if (at >= 0 && at + width <= count) {
            const auto from = cuda::load_piece<width>(x + at);
            cuda::Piece<__nv_bfloat16, width> to;
#pragma unroll
            for (int i = 0; i < width; ++i)
                to.element[i] = rounded(from.element[i], words[i].word[w]);
            cuda::store_piece(y + at, to);
            continue;
        }
#pragma unroll
        for (int i = 0; i < width; ++i) // across an end of the view
            if (at + i >= 0 && at + i < count) y[at + i] = rounded(x[at + i], words[i].word[w]);
    }
}

} // namespace

void stochastic_cast(CudaStream& stream, const StochasticCast& which, ConstView draw, ConstView x, View y) {
    check_count("stochastic_cast", "the draw", draw, draw_words);
    check_count("stochastic_cast", "the result", y, x.count());
    if (x.count() == 0) return;
    const Draws draws{which.stream, which.first_element / random_group,
                      static_cast<std::int64_t>(which.first_element % random_group)};
    const std::int64_t groups = cuda::divide_up(draws.first_in_group + x.count(), random_group);
    const bool wide = draws.first_in_group % cuda::Vector<float>::count == 0 && cuda::aligned({x.data, y.data});
    cuda::with_width<float>(wide, [&]<int width>() {
        const std::int64_t items = groups * (cuda::random_run / width);
        cuda::launch("stochastic_cast", stream, cast_kernel<width>, cuda::blocks(items, threads), threads, 0, draws,
                     reinterpret_cast<const Draw*>(cuda::pointer<std::int32_t>(draw)), items, x.count(),
                     cuda::pointer<float>(x), cuda::pointer<__nv_bfloat16>(y));
    });
}

} // namespace tessera::kernels
