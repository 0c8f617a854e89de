// SPDX-License-Identifier: Apache-2.0
// Token ids on the CPU: a thread takes whole samples.
#include "kernels/tokens.hpp"

#include "kernels/check.hpp"
#include "kernels/cpu/philox.hpp"
#include "kernels/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera::kernels {
namespace {

constexpr std::uint32_t never = 0xffffffffu; // the key of a token that may not be chosen
constexpr std::int64_t grain = 1 << 14;

struct Sample {
    const std::int32_t* tokens;
    std::int32_t *masked, *slots, *targets;
    std::uint32_t* keys;
};

// The words of a token are those of the block with its number among all samples'.
void draw_tokens(const MaskTokens& how, const Draw& at, const Sample& sample) {
    const PhiloxKey key{{at.seed_low ^ static_cast<std::uint32_t>(how.stream),
                         at.seed_high ^ static_cast<std::uint32_t>(how.stream >> 32)}};
    const std::uint64_t step = std::uint64_t{at.step_high} << 32 | at.step_low;
    const std::uint64_t first =
        (std::uint64_t{at.sample_high} << 32 | at.sample_low) * static_cast<std::uint64_t>(how.tokens);
    simd::RandomGroup words{};
    for (std::int64_t t = 0; t < how.tokens; ++t) {
        const std::uint64_t block = first + static_cast<std::uint64_t>(t);
        const auto lane = static_cast<int>(block % simd::lanes);
        if (t == 0 || lane == 0) words = simd::random_group(key, step, block / simd::lanes);
        const std::int32_t token = sample.tokens[t];
        const bool may = std::ranges::find(how.kept, token) == how.kept.end();
        sample.keys[t] = may ? std::min(words.word[0][lane], never - 1) : never;
        const std::uint32_t tenth = static_cast<std::uint32_t>(std::uint64_t{words.word[1][lane]} * 10 >> 32);
        const auto random =
            static_cast<std::int32_t>(std::uint64_t{words.word[2][lane]} * static_cast<std::uint32_t>(how.below) >> 32);
        sample.masked[t] = tenth < 8 ? how.mask : tenth == 8 ? random : token;
    }
}

// Those with the K smallest keys, of equals the first.
void choose_tokens(const MaskTokens& how, const Sample& sample) {
    std::fill_n(sample.targets, how.chosen, -1);
    const std::int64_t may = how.tokens - std::count(sample.keys, sample.keys + how.tokens, never);
    const std::int64_t most = std::max<std::int64_t>(1, (2 * may * how.chosen + how.tokens) / (2 * how.tokens));
    for (std::int64_t t = 0; t < how.tokens; ++t) {
        std::int64_t place = 0;
        for (std::int64_t other = 0; other < how.tokens; ++other)
            place += sample.keys[other] < sample.keys[t] || (sample.keys[other] == sample.keys[t] && other < t) ? 1 : 0;
        const bool chosen = place < std::min(most, how.chosen) && sample.keys[t] != never;
        sample.slots[t] = chosen ? static_cast<std::int32_t>(place) : -1;
        if (chosen)
            sample.targets[place] = sample.tokens[t];
        else
            sample.masked[t] = sample.tokens[t];
    }
}

} // namespace

void check_mask_tokens(const MaskTokens& how, const ConstView& draws, const ConstView& tokens, const ConstView& masked,
                       const ConstView& slots, const ConstView& targets, const ConstView& workspace) {
    const std::int64_t count = how.samples * how.tokens;
    check_count("mask_tokens", "the draws", draws, how.samples * draw_words);
    check_count("mask_tokens", "the tokens", tokens, count);
    check_count("mask_tokens", "the masked tokens", masked, count);
    check_count("mask_tokens", "the slots", slots, count);
    check_count("mask_tokens", "the targets", targets, how.samples * how.chosen);
    check_workspace("mask_tokens", workspace, count * 4);
    if (how.chosen < 0 || how.chosen > how.tokens || how.below < 1)
        throw InternalError(
            fmt::format("mask_tokens: {} of {} tokens, random ones below {}", how.chosen, how.tokens, how.below));
}

void mask_tokens(CpuStream& stream, const MaskTokens& how, ConstView draws, ConstView tokens, View masked, View slots,
                 View targets, View workspace) {
    check_mask_tokens(how, draws, tokens, masked, slots, targets, workspace);
    const auto* places = draws.as<std::int32_t>();
    stream.parallel(how.samples, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t b = begin; b < end; ++b) {
            Draw at;
            std::memcpy(&at, places + b * draw_words, sizeof at);
            const std::int64_t first = b * how.tokens;
            const Sample sample{tokens.as<std::int32_t>() + first, masked.as<std::int32_t>() + first,
                                slots.as<std::int32_t>() + first, targets.as<std::int32_t>() + b * how.chosen,
                                static_cast<std::uint32_t*>(workspace.memory()) + first};
            draw_tokens(how, at, sample);
            choose_tokens(how, sample);
        }
    });
}

void token_segments(CpuStream& stream, std::int32_t padding, ConstView tokens, View segments) {
    check_count("token_segments", "the segments", segments, tokens.count());
    const auto* from = tokens.as<std::int32_t>();
    auto* to = segments.as<std::int32_t>();
    stream.parallel(tokens.count(), grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            to[i] = from[i] == padding ? 0 : 1;
    });
}

void token_types(CpuStream& stream, std::int32_t separator, std::int32_t last, ConstView tokens, View types) {
    check_count("token_types", "the types", types, tokens.count());
    const std::int64_t times = tokens.shape[-1];
    const auto* from = tokens.as<std::int32_t>();
    auto* to = types.as<std::int32_t>();
    stream.parallel(times == 0 ? 0 : tokens.count() / times, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin * times, type = 0; i < end * times; ++i) {
            if (i % times == 0) type = 0;
            to[i] = static_cast<std::int32_t>(type);
            if (from[i] == separator) type = std::min<std::int64_t>(type + 1, last);
        }
    });
}

void shift_tokens(CpuStream& stream, std::int32_t first, ConstView tokens, View y) {
    check_count("shift_tokens", "the result", y, tokens.count());
    const std::int64_t times = tokens.shape[-1];
    const auto* from = tokens.as<std::int32_t>();
    auto* to = y.as<std::int32_t>();
    stream.parallel(tokens.count(), grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
            to[i] = i % times == 0 || from[i - 1] < 0 ? first : from[i - 1];
    });
}

} // namespace tessera::kernels
