// SPDX-License-Identifier: Apache-2.0
// Dropout on the GPU: the words of kernels/random.hpp, to the last bit, made anew in each pass.
#include "kernels/dropout.hpp"

#include "kernels/cuda/philox.cuh"
#include "kernels/cuda/piece.cuh"

namespace tessera::kernels {
namespace {

constexpr int threads = 256;
constexpr int run = cuda::random_run;

struct Mask {
    std::uint64_t stream; // of the random key
    float probability;
    float factor; // of what is kept
    std::uint64_t sample_elements;
    std::uint64_t first_element;
};

// A thread makes `width` neighbouring blocks: of each of their four words, `width` neighbouring elements. y may be x.
template <class T, int width> __global__ void __launch_bounds__(threads)
    dropout_kernel(Mask mask, const Draw* __restrict__ place, std::int64_t items, std::int64_t count, const T* x,
                   T* y) {
    constexpr int per_group = run / width;
    const PhiloxKey key{{place->seed_low ^ static_cast<std::uint32_t>(mask.stream),
                         place->seed_high ^ static_cast<std::uint32_t>(mask.stream >> 32)}};
    const std::uint64_t draw = std::uint64_t{place->step_high} << 32 | place->step_low;
    const std::uint64_t first = (std::uint64_t{place->sample_high} << 32 | place->sample_low) * mask.sample_elements +
                                mask.first_element; // of the view
    const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (item >= items) return;
    const std::int64_t group = item / per_group;
    const int in_run = static_cast<int>(item % per_group) * width;
    const std::int64_t start =
        group * random_group - static_cast<std::int64_t>(first % random_group) + in_run; // negative before the view
    const bool whole = start >= 0 && start + 3 * run + width <= count;
    cuda::Piece<T, width> piece[4] = {};
#pragma unroll
    for (int w = 0; w < 4; ++w)
        if (whole) piece[w] = cuda::load_piece<width>(x + start + w * run);
    unsigned kept = 0; // bit w * width + i
#pragma unroll
    for (int i = 0; i < width; ++i) {
        const std::uint64_t block =
            (first / random_group + static_cast<std::uint64_t>(group)) * run + static_cast<std::uint64_t>(in_run + i);
        const cuda::RandomWords words = cuda::random_words_of(key, draw, block);
#pragma unroll
        for (int w = 0; w < 4; ++w)
            if (static_cast<float>(words.word[w] >> 8) * 0x1p-24f >= mask.probability) kept |= 1u << (w * width + i);
    }
    const auto result = [&](T value, int bit) { // without a branch
        const float scaled = cuda::to_float(value) * mask.factor;
        return cuda::from_float<T>((kept >> bit & 1u) != 0 ? scaled : 0.0f);
    };
    if (whole) {
#pragma unroll
        for (int w = 0; w < 4; ++w) {
#pragma unroll
            for (int i = 0; i < width; ++i)
                piece[w].element[i] = result(piece[w].element[i], w * width + i);
            cuda::store_piece(y + start + w * run, piece[w]);
        }
        return;
    }
#pragma unroll 1
    for (int bit = 0; bit < 4 * width; ++bit) // across an end of the view
        if (const std::int64_t at = start + bit / width * run + bit % width; at >= 0 && at < count)
            y[at] = result(x[at], bit);
}

} // namespace

// Where in a group of the generator the view begins is known when the kernel runs. A sample of whole vectors keeps
// vectors whole; unless it is one of whole groups, there is one group more, which may be empty.
void dropout(CudaStream& stream, const Dropout& which, ConstView draw, ConstView x, View y) {
    check_count("dropout", "the draw", draw, draw_words);
    check_count("dropout", "the result", y, x.count());
    check_probability("dropout", which.probability);
    if (x.count() == 0) return;
    const Mask mask{which.stream, which.probability, 1.0f / (1.0f - which.probability),
                    static_cast<std::uint64_t>(which.sample_elements), static_cast<std::uint64_t>(which.first_element)};
    const auto whole = [&](std::int64_t unit) {
        return which.sample_elements % unit == 0 && which.first_element % unit == 0;
    };
    const std::int64_t groups = cuda::divide_up(x.count(), random_group) + (whole(random_group) ? 0 : 1);
    const auto* at = reinterpret_cast<const Draw*>(cuda::pointer<std::int32_t>(draw));
    cuda::with_float_type("dropout", x.dtype, [&]<class T>() {
        const bool wide = whole(cuda::Vector<T>::count) && cuda::aligned({x.data, y.data});
        cuda::with_width<T>(wide, [&]<int width>() {
            const std::int64_t items = groups * (run / width);
            cuda::launch("dropout", stream, dropout_kernel<T, width>, cuda::blocks(items, threads), threads, 0, mask,
                         at, items, x.count(), cuda::pointer<T>(x), cuda::pointer<T>(y));
        });
    });
}

} // namespace tessera::kernels
