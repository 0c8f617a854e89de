// SPDX-License-Identifier: Apache-2.0
// Masks, segments, types and shifts of token ids against plain loops.
#include "kernels/tokens.hpp"
#include "kernels/error.hpp"
#include "kernels/philox.hpp"
#include "tests/support/device.hpp"

#include <cmath>
#include <map>
#include <numeric>

using namespace tessera;

namespace tokens_test {

namespace {

constexpr std::int32_t mask = 50, below = 50;

struct Masked {
    Sample tokens, draws, masked, slots, targets, workspace;
    kernels::MaskTokens how;

    template <class Device>
    Masked(Device& on, std::int64_t samples, std::int64_t times, std::int64_t chosen, std::uint64_t first_sample = 0)
        : tokens({samples, times}, DType::i32), draws({samples, kernels::draw_words}, DType::i32),
          masked({samples, times}, DType::i32), slots({samples, times}, DType::i32),
          targets({samples, chosen}, DType::i32), workspace({samples, times}, DType::i32),
          how{random_key(0, "mask").stream, samples, times, chosen, mask, below, {3, 4, -1, -1}} {
        for (std::int64_t i = 0; i < tokens.count(); ++i) // of the last sample most is padding
            tokens.set(i, samples == 3 && i > tokens.count() - times * 2 / 3
                              ? 3
                              : static_cast<double>((i + static_cast<std::int64_t>(first_sample) * times) * 7 % 43));
        for (std::int64_t b = 0; b < samples; ++b)
            kernels::write_draw(
                View(draws.view().as<std::int32_t>() + b * kernels::draw_words, {kernels::draw_words}, DType::i32), 11,
                5, first_sample + static_cast<std::uint64_t>(b));
        kernels::mask_tokens(on.stream(), how, on(draws), on(tokens), on(masked), on(slots), on(targets),
                             on(workspace));
        on.finish();
    }
};

template <class Device> class Tokens : public testing::Test {};
TYPED_TEST_SUITE(Tokens, Devices, DeviceNames);

} // namespace

TYPED_TEST(Tokens, MasksTheTokensWithTheSmallestNumbers) {
    for (const std::int64_t times : {1, 7, 33, 300}) {
        TypeParam on;
        const std::int64_t samples = 3, chosen = (times + 3) / 4;
        const Masked run(on, samples, times, chosen);
        for (std::int64_t b = 0; b < samples; ++b) {
            std::vector<std::pair<std::uint32_t, std::int64_t>> order;
            const auto words = [&](std::int64_t t) {
                return random_words({11, run.how.stream}, 5, static_cast<std::uint64_t>(b * times + t));
            };
            for (std::int64_t t = 0; t < times; ++t)
                if (const double token = run.tokens[b * times + t]; token != 3 && token != 4)
                    order.emplace_back(words(t)[0], t);
            std::sort(order.begin(), order.end());
            std::map<std::int64_t, std::int64_t> places;
            const auto may = static_cast<double>(order.size());
            const double share = std::floor(may * static_cast<double>(chosen) / static_cast<double>(times) + 0.5);
            for (std::int64_t place = 0; place < chosen; ++place) {
                const bool is = static_cast<double>(place) < std::min(may, std::max(share, 1.0));
                const std::int64_t t = is ? order[static_cast<std::size_t>(place)].second : -1;
                if (is) places[t] = place;
                EXPECT_EQ(run.targets[b * chosen + place], is ? run.tokens[b * times + t] : -1);
            }
            for (std::int64_t t = 0; t < times; ++t) {
                const std::int64_t i = b * times + t;
                const std::uint64_t tenth = std::uint64_t{words(t)[1]} * 10 >> 32;
                const auto random = static_cast<double>(std::uint64_t{words(t)[2]} * below >> 32);
                EXPECT_EQ(run.slots[i], places.contains(t) ? static_cast<double>(places[t]) : -1);
                const double hidden = tenth < 8 ? mask : tenth == 8 ? random : run.tokens[i];
                EXPECT_EQ(run.masked[i], places.contains(t) ? hidden : run.tokens[i]) << t;
            }
        }
    }
}

// 80 %, 10 % and 10 %, each place alike.
TEST(MaskTokens, IsFair) {
    OnCpu on;
    const Masked run(on, 2000, 20, 4);
    std::int64_t masks = 0, kept = 0, chosen = 0;
    std::vector<int> at(20);
    for (std::int64_t i = 0; i < run.slots.count(); ++i) {
        if (run.slots[i] < 0) continue;
        ++chosen;
        ++at[static_cast<std::size_t>(i % 20)];
        masks += run.masked[i] == mask ? 1 : 0;
        kept += run.masked[i] == run.tokens[i] ? 1 : 0;
    }
    EXPECT_EQ(chosen, 8000);
    EXPECT_NEAR(static_cast<double>(masks) / 8000, 0.8, 0.02);
    EXPECT_NEAR(static_cast<double>(kept) / 8000, 0.1 + 0.1 / below, 0.015);
    for (const int count : at)
        EXPECT_NEAR(count, 400, 100);
}

// What becomes of a sample depends on its number alone, not on the batch it is in or the threads.
TEST(MaskTokens, ASampleIsMaskedAlikeAnywhere) {
    OnCpu one(1), three(3);
    const Masked all(one, 6, 33, 5), last(three, 2, 33, 5, 4);
    for (std::int64_t i = 0; i < 2 * 33; ++i) {
        EXPECT_EQ(all.masked[4 * 33 + i], last.masked[i]);
        EXPECT_EQ(all.slots[4 * 33 + i], last.slots[i]);
    }
}

TEST(MaskTokens, RefusesWrongSizes) {
    OnCpu on;
    EXPECT_THROW(Masked(on, 2, 4, 5), InternalError);
    const Masked run(on, 2, 4, 2);
    EXPECT_THROW(kernels::mask_tokens(on.stream(), run.how, on(run.draws), on(run.tokens), on(run.targets),
                                      on(run.slots), on(run.targets), on(run.workspace)),
                 InternalError);
}

TYPED_TEST(Tokens, SegmentsTypesAndShifts) {
    TypeParam on;
    Sample tokens({2, 6}, DType::i32);
    const int ids[] = {7, 2, 1, 2, 5, 0, /**/ 2, 2, 2, 9, -1, -1};
    for (std::int64_t i = 0; i < 12; ++i)
        tokens.set(i, ids[i]);
    const Sample segments({2, 6}, DType::i32), types({2, 6}, DType::i32), shifted({2, 6}, DType::i32);
    kernels::token_segments(on.stream(), 0, on(tokens), on(segments));
    kernels::token_types(on.stream(), 2, 1, on(tokens), on(types));
    kernels::shift_tokens(on.stream(), 8, on(tokens), on(shifted));
    on.finish();
    const std::vector<double> of_types = {0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1};
    const std::vector<double> of_shifts = {8, 7, 2, 1, 2, 5, 8, 2, 2, 2, 9, 8};
    EXPECT_EQ(types.values(), of_types);
    EXPECT_EQ(shifted.values(), of_shifts);
    for (std::int64_t i = 0; i < 12; ++i)
        EXPECT_EQ(segments[i], ids[i] == 0 ? 0 : 1);
}

} // namespace tokens_test
