// SPDX-License-Identifier: Apache-2.0
// Token ids on the GPU: a thread takes a token, or for types a sample.
#include "kernels/tokens.hpp"

#include "kernels/cuda/philox.cuh"

namespace tessera::kernels {
namespace {

constexpr int threads = 256;
constexpr std::uint32_t never = 0xffffffffu; // the key of a token that may not be chosen

struct Operands {
    const Draw* draws;
    const std::int32_t* tokens;
    std::int32_t *masked, *slots, *targets;
    std::uint32_t* keys;
};

struct How {
    std::uint64_t stream;
    std::int64_t count; // of all samples' tokens
    int tokens, chosen;
    std::int32_t mask, below, kept[4];

    explicit How(const MaskTokens& how)
        : stream(how.stream), count(how.samples * how.tokens), tokens(static_cast<int>(how.tokens)),
          chosen(static_cast<int>(how.chosen)), mask(how.mask),
          below(how.below), kept{how.kept[0], how.kept[1], how.kept[2], how.kept[3]} {}
};

__device__ __forceinline__ std::int64_t thread_index() {
    return static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
}

__global__ void __launch_bounds__(threads) draw_kernel(Operands operands, How how) {
    const std::int64_t i = thread_index();
    if (i >= how.count) return;
    const Draw at = operands.draws[i / how.tokens];
    const int t = static_cast<int>(i % how.tokens);
    if (t < how.chosen) operands.targets[i / how.tokens * how.chosen + t] = -1;
    const PhiloxKey key{{at.seed_low ^ static_cast<std::uint32_t>(how.stream),
                         at.seed_high ^ static_cast<std::uint32_t>(how.stream >> 32)}};
    const std::uint64_t step = std::uint64_t{at.step_high} << 32 | at.step_low;
    const std::uint64_t first =
        (std::uint64_t{at.sample_high} << 32 | at.sample_low) * static_cast<std::uint64_t>(how.tokens);
    const cuda::RandomWords words = cuda::random_words_of(key, step, first + static_cast<std::uint64_t>(t));
    const std::int32_t token = operands.tokens[i];
    const bool may = token != how.kept[0] && token != how.kept[1] && token != how.kept[2] && token != how.kept[3];
    const std::uint32_t drawn = words.word[0] < never ? words.word[0] : never - 1;
    operands.keys[i] = may ? drawn : never;
    const auto tenth = static_cast<std::uint32_t>(std::uint64_t{words.word[1]} * 10 >> 32);
    const auto random =
        static_cast<std::int32_t>(std::uint64_t{words.word[2]} * static_cast<std::uint32_t>(how.below) >> 32);
    operands.masked[i] = tenth < 8 ? how.mask : tenth == 8 ? random : token;
}

__global__ void __launch_bounds__(threads) choose_kernel(Operands operands, How how) {
    const std::int64_t i = thread_index();
    if (i >= how.count) return;
    const std::int64_t sample = i / how.tokens;
    const int t = static_cast<int>(i % how.tokens);
    const std::uint32_t* keys = operands.keys + sample * how.tokens;
    const std::uint32_t own = keys[t];
    int place = 0;
    std::int64_t may = 0;
    for (int other = 0; other < how.tokens; ++other) {
        place += keys[other] < own || (keys[other] == own && other < t) ? 1 : 0;
        may += keys[other] != never ? 1 : 0;
    }
    const std::int64_t share = (2 * may * how.chosen + how.tokens) / (2 * how.tokens);
    const bool chosen = place < how.chosen && place < (share > 1 ? share : 1) && own != never;
    operands.slots[i] = chosen ? place : -1;
    if (chosen)
        operands.targets[sample * how.chosen + place] = operands.tokens[i];
    else
        operands.masked[i] = operands.tokens[i];
}

__global__ void __launch_bounds__(threads)
    segments_kernel(const std::int32_t* tokens, std::int32_t padding, std::int64_t count, std::int32_t* segments) {
    const std::int64_t i = thread_index();
    if (i < count) segments[i] = tokens[i] == padding ? 0 : 1;
}

__global__ void __launch_bounds__(threads)
    types_kernel(const std::int32_t* tokens, std::int32_t separator, std::int32_t last, std::int64_t samples,
                 std::int64_t times, std::int32_t* types) {
    const std::int64_t sample = thread_index();
    if (sample >= samples) return;
    std::int32_t type = 0;
    for (std::int64_t i = sample * times; i < (sample + 1) * times; ++i) {
        types[i] = type;
        if (tokens[i] == separator && type < last) ++type;
    }
}

__global__ void __launch_bounds__(threads) shift_kernel(const std::int32_t* tokens, std::int32_t first,
                                                        std::int64_t count, std::int64_t times, std::int32_t* y) {
    const std::int64_t i = thread_index();
    if (i < count) y[i] = i % times == 0 || tokens[i - 1] < 0 ? first : tokens[i - 1];
}

} // namespace

void mask_tokens(CudaStream& stream, const MaskTokens& how, ConstView draws, ConstView tokens, View masked, View slots,
                 View targets, View workspace) {
    check_mask_tokens(how, draws, tokens, masked, slots, targets, workspace);
    const Operands operands{reinterpret_cast<const Draw*>(draws.as<std::int32_t>()),
                            tokens.as<std::int32_t>(),
                            masked.as<std::int32_t>(),
                            slots.as<std::int32_t>(),
                            targets.as<std::int32_t>(),
                            static_cast<std::uint32_t*>(workspace.memory())};
    const How same(how);
    cuda::launch("mask_tokens", stream, draw_kernel, cuda::blocks(same.count, threads), threads, 0, operands, same);
    cuda::launch("mask_tokens", stream, choose_kernel, cuda::blocks(same.count, threads), threads, 0, operands, same);
}

void token_segments(CudaStream& stream, std::int32_t padding, ConstView tokens, View segments) {
    check_count("token_segments", "the segments", segments, tokens.count());
    cuda::launch("token_segments", stream, segments_kernel, cuda::blocks(tokens.count(), threads), threads, 0,
                 tokens.as<std::int32_t>(), padding, tokens.count(), segments.as<std::int32_t>());
}

void token_types(CudaStream& stream, std::int32_t separator, std::int32_t last, ConstView tokens, View types) {
    check_count("token_types", "the types", types, tokens.count());
    if (tokens.count() == 0) return;
    const std::int64_t times = tokens.shape[-1], samples = tokens.count() / times;
    cuda::launch("token_types", stream, types_kernel, cuda::blocks(samples, threads), threads, 0,
                 tokens.as<std::int32_t>(), separator, last, samples, times, types.as<std::int32_t>());
}

void shift_tokens(CudaStream& stream, std::int32_t first, ConstView tokens, View y) {
    check_count("shift_tokens", "the result", y, tokens.count());
    if (tokens.count() == 0) return;
    cuda::launch("shift_tokens", stream, shift_kernel, cuda::blocks(tokens.count(), threads), threads, 0,
                 tokens.as<std::int32_t>(), first, tokens.count(), tokens.shape[-1], y.as<std::int32_t>());
}

} // namespace tessera::kernels
