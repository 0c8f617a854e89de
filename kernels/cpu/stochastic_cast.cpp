// SPDX-License-Identifier: Apache-2.0
// Rounding by chance on the CPU, 64 elements of four random words at a time.
#include "kernels/stochastic_cast.hpp"

#include "kernels/cpu/philox.hpp"

namespace tessera::kernels {
namespace {

constexpr std::int64_t groups_per_thread = 16384 / random_group;

struct Draws {
    PhiloxKey key;
    std::uint64_t step;
};

// Whole groups of elements, from group `first` of the logical tensor.
TESSERA_MULTIVERSION __attribute__((noinline)) void round_groups(const Draws& draws, std::uint64_t first,
                                                                 std::int64_t groups, const float* x, BFloat16* y) {
    for (std::int64_t g = 0; g < groups; ++g, x += random_group, y += random_group) {
        const simd::RandomGroup group =
            simd::random_group(draws.key, draws.step, first + static_cast<std::uint64_t>(g));
        for (int w = 0; w < 4; ++w) {
            const simd::Floats value = simd::load(x + w * simd::lanes);
            simd::Words bits;
            std::memcpy(&bits, &value, sizeof bits);
            const simd::Words rounded = (bits + (group.word[w] >> 16)) & 0xffff0000u;
            const simd::Words chosen = (bits & 0x7f800000u) == 0x7f800000u ? bits : rounded;
            simd::Floats result;
            std::memcpy(&result, &chosen, sizeof result);
            simd::store(y + w * simd::lanes, result); // exact, but for NaN
        }
    }
}

} // namespace

void stochastic_cast(CpuStream& stream, const StochasticCast& which, ConstView draw, ConstView x, View y) {
    check_count("stochastic_cast", "the draw", draw, draw_words);
    check_count("stochastic_cast", "the result", y, x.count());
    Draw at;
    std::memcpy(&at, draw.as<std::int32_t>(), sizeof at);
    const Draws draws{{{at.seed_low ^ static_cast<std::uint32_t>(which.stream),
                        at.seed_high ^ static_cast<std::uint32_t>(which.stream >> 32)}},
                      std::uint64_t{at.step_high} << 32 | at.step_low};
    const float* from = x.as<float>();
    BFloat16* to = y.as<BFloat16>();
    for_random_groups(
        which.first_element, x.count(),
        [&](std::uint64_t group, std::int64_t groups, std::int64_t offset) {
            const auto work = [&](std::int64_t begin, std::int64_t end) {
                const std::int64_t start = offset + begin * random_group;
                round_groups(draws, group + static_cast<std::uint64_t>(begin), end - begin, from + start, to + start);
            };
            stream.parallel(groups, groups_per_thread, std::ref(work));
        },
        [&](std::uint64_t group, std::int64_t begin, std::int64_t end, std::int64_t offset) {
            std::array<float, random_group> whole{};
            std::array<BFloat16, random_group> rounded{};
            std::copy_n(from + offset, end - begin, whole.begin() + begin);
            round_groups(draws, group, 1, whole.data(), rounded.data());
            std::copy(rounded.begin() + begin, rounded.begin() + end, to + offset);
        });
}

} // namespace tessera::kernels
