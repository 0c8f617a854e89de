// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding on the GPU: a block makes the sines and cosines of some positions in shared memory and
// turns all of their heads.
#include "kernels/rotary.hpp"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/piece.cuh"

namespace tessera::kernels {
namespace {

constexpr int threads = 256; // each makes one angle

struct Sizes {
    std::int64_t tokens, time, first_position;
    std::int64_t heads, pairs; // x is (tokens, heads, 2 pairs)
    int turning, period;       // of each `period` heads the first so many turn
    int all_turning;           // heads
    int chunk, tokens_per_block;
    double octaves;
    RotaryScaling scaling;
    float direction;
};

// The cosine and sine of one pair's angle at one position. Whole turns fall out of the product's upper end.
__device__ __forceinline__ float2 angle(const Sizes& sizes, std::int64_t pair, std::int64_t position) {
    const double unscaled = exp2(static_cast<double>(pair) * -sizes.octaves);
    const RotaryScaling& by = sizes.scaling; // as RotaryScaling::of_angle, which is the host's
    const double turns = by.trained * (unscaled * rotary_turn) * 0x1p-64;
    double scale = 1;
    if (turns < by.low_turns) {
        scale = 1 / by.factor;
    } else if (turns <= by.high_turns) {
        const double part = (turns - by.low_turns) / (by.high_turns - by.low_turns);
        scale = (1 - part) / by.factor + part;
    }
    const auto turn = static_cast<unsigned long long>(unscaled * scale * rotary_turn);
    const unsigned long long turned = turn * static_cast<unsigned long long>(position);
    const float part = static_cast<float>(static_cast<int>(turned >> 32)) * 0x1p-31f; // in [-1, 1) of half a turn
    float sine, cosine;
    sincospif(part, &sine, &cosine);
    return make_float2(cosine, sine * sizes.direction);
}

template <class T, int n> struct Pairs { cuda::Piece<T, n> first, second; };

template <RotaryPairs layout, int n, class T>
__device__ __forceinline__ Pairs<T, n> load_pairs(const T* head, std::int64_t pair, std::int64_t pairs) {
    Pairs<T, n> result;
    if constexpr (layout == RotaryPairs::half) {
        result.first = cuda::load_piece<n>(head + pair);
        result.second = cuda::load_piece<n>(head + pairs + pair);
    } else if constexpr (n == 1) {
        result.first.element[0] = head[2 * pair];
        result.second.element[0] = head[2 * pair + 1];
    } else {
        const auto both = cuda::load_piece<2 * n>(head + 2 * pair);
#pragma unroll
        for (int i = 0; i < n; ++i) {
            result.first.element[i] = both.element[2 * i];
            result.second.element[i] = both.element[2 * i + 1];
        }
    }
    return result;
}

template <RotaryPairs layout, int n, class T>
__device__ __forceinline__ void store_pairs(T* head, std::int64_t pair, std::int64_t pairs, const Pairs<T, n>& value) {
    if constexpr (layout == RotaryPairs::half) {
        cuda::store_piece(head + pair, value.first);
        cuda::store_piece(head + pairs + pair, value.second);
    } else if constexpr (n == 1) {
        head[2 * pair] = value.first.element[0];
        head[2 * pair + 1] = value.second.element[0];
    } else {
        cuda::Piece<T, 2 * n> both;
#pragma unroll
        for (int i = 0; i < n; ++i) {
            both.element[2 * i] = value.first.element[i];
            both.element[2 * i + 1] = value.second.element[i];
        }
        cuda::store_piece(head + 2 * pair, both);
    }
}

// Block (i, j): pairs [j * threads, (j + 1) * threads) of the heads of `tokens_per_block` tokens, n pairs at a time.
template <RotaryPairs layout, int n, class T> __global__ void __launch_bounds__(threads)
    rotary_kernel(Sizes sizes, T* x) {
    TESSERA_SHARED(float2, angles, [threads]); // (tokens_per_block, chunk)
    const std::int64_t first_token = static_cast<std::int64_t>(blockIdx.x) * sizes.tokens_per_block;
    const std::int64_t first_pair = static_cast<std::int64_t>(blockIdx.y) * threads;
    const int made = static_cast<int>(threadIdx.x);
    if (made < sizes.tokens_per_block * sizes.chunk) {
        const std::int64_t token = first_token + made / sizes.chunk;
        angles[made] = angle(sizes, first_pair + made % sizes.chunk, sizes.first_position + token % sizes.time);
    }
    __syncthreads();
    const int per_head = static_cast<int>(min(static_cast<std::int64_t>(sizes.chunk), sizes.pairs - first_pair)) / n;
    const int tokens =
        static_cast<int>(min(static_cast<std::int64_t>(sizes.tokens_per_block), sizes.tokens - first_token));
    const std::int64_t items = static_cast<std::int64_t>(tokens) * sizes.all_turning * per_head;
    for (std::int64_t item = threadIdx.x; item < items; item += threads) {
        const int in_head = static_cast<int>(item % per_head) * n;
        const std::int64_t turning = item / per_head; // of the heads of these tokens that turn
        const int token = static_cast<int>(turning / sizes.all_turning);
        const int number = static_cast<int>(turning % sizes.all_turning);
        const int head = number / sizes.turning * sizes.period + number % sizes.turning;
        T* start = x + ((first_token + token) * sizes.heads + head) * 2 * sizes.pairs;
        Pairs<T, n> value = load_pairs<layout, n>(start, first_pair + in_head, sizes.pairs);
#pragma unroll
        for (int i = 0; i < n; ++i) {
            const float2 at = angles[token * sizes.chunk + in_head + i];
            const float a = cuda::to_float(value.first.element[i]), b = cuda::to_float(value.second.element[i]);
            value.first.element[i] = cuda::from_float<T>(a * at.x - b * at.y);
            value.second.element[i] = cuda::from_float<T>(a * at.y + b * at.x);
        }
        store_pairs<layout>(start, first_pair + in_head, sizes.pairs, value);
    }
}

template <RotaryPairs layout, class T> void launch_rotary(CudaStream& stream, const Sizes& sizes, T* x) {
    const dim3 grid(cuda::blocks(sizes.tokens, sizes.tokens_per_block), cuda::blocks(sizes.pairs, threads));
    constexpr int wide = layout == RotaryPairs::half ? cuda::Vector<T>::count : cuda::Vector<T>::count / 2;
    if (sizes.pairs % wide == 0 && cuda::aligned({x}))
        cuda::launch("rotary", stream, rotary_kernel<layout, wide, T>, grid, threads, 0, sizes, x);
    else
        cuda::launch("rotary", stream, rotary_kernel<layout, 1, T>, grid, threads, 0, sizes, x);
}

void run(CudaStream& stream, const Rotary& which, float direction, View x) {
    const RotarySizes of = rotary_sizes(which, x);
    cuda::with_float_type("rotary", x.dtype, [&]<class T>() {
        if (x.count() == 0) return;
        const int chunk = static_cast<int>(std::min<std::int64_t>(of.pairs, threads));
        if (of.all_turning() == 0) return;
        const Sizes sizes{.tokens = of.batch * of.time,
                          .time = of.time,
                          .first_position = which.first_position,
                          .heads = of.heads,
                          .pairs = of.pairs,
                          .turning = static_cast<int>(of.turning),
                          .period = static_cast<int>(of.period),
                          .all_turning = static_cast<int>(of.all_turning()),
                          .chunk = chunk,
                          .tokens_per_block = threads / chunk,
                          .octaves = of.octaves,
                          .scaling = which.scaling,
                          .direction = direction};
        if (which.pairs == RotaryPairs::half)
            launch_rotary<RotaryPairs::half>(stream, sizes, cuda::pointer<T>(x));
        else
            launch_rotary<RotaryPairs::interleaved>(stream, sizes, cuda::pointer<T>(x));
    });
}

} // namespace

void rotary(CudaStream& stream, const Rotary& which, View x) { run(stream, which, 1, x); }
void rotary_gradient(CudaStream& stream, const Rotary& which, View dy) { run(stream, which, -1, dy); }

} // namespace tessera::kernels
