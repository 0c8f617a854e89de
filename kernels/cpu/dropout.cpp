// SPDX-License-Identifier: Apache-2.0
// Dropout on the CPU: the random words are made anew in each pass, which costs less than reading a stored mask.
#include "kernels/dropout.hpp"

#include "kernels/cpu/philox.hpp"

namespace tessera::kernels {
namespace {

constexpr std::int64_t groups_per_thread = 16384 / random_group;

struct Mask {
    PhiloxKey key;
    std::uint64_t step;
    float probability;
    float factor; // of what is kept
};

// Whole groups of elements, from group `first` of the logical tensor.
template <class T> TESSERA_MULTIVERSION __attribute__((noinline)) void
dropout_groups(const Mask& mask, std::uint64_t first, std::int64_t groups, const T* x, T* y) {
    for (std::int64_t g = 0; g < groups; ++g, x += random_group, y += random_group) {
        const simd::RandomGroup group = simd::random_group(mask.key, mask.step, first + static_cast<std::uint64_t>(g));
        for (int w = 0; w < 4; ++w) {
            const simd::Floats kept = simd::load(x + w * simd::lanes) * mask.factor;
            const simd::Floats uniform = simd::uniform(group.word[w]);
            simd::store(y + w * simd::lanes, uniform >= mask.probability ? kept : simd::Floats{});
        }
    }
}

template <class T>
void run(const CpuStream& stream, const Mask& mask, std::uint64_t first_element, std::int64_t count, const T* x, T* y) {
    for_random_groups(
        first_element, count,
        [&](std::uint64_t group, std::int64_t groups, std::int64_t offset) {
            const auto work = [&](std::int64_t begin, std::int64_t end) {
                const std::int64_t start = offset + begin * random_group;
                dropout_groups(mask, group + static_cast<std::uint64_t>(begin), end - begin, x + start, y + start);
            };
            stream.parallel(groups, groups_per_thread, std::ref(work));
        },
        [&](std::uint64_t group, std::int64_t begin, std::int64_t end, std::int64_t offset) {
            std::array<T, random_group> whole{};
            std::copy_n(x + offset, end - begin, whole.begin() + begin);
            dropout_groups(mask, group, 1, whole.data(), whole.data());
            std::copy(whole.begin() + begin, whole.begin() + end, y + offset);
        });
}

} // namespace

void dropout(CpuStream& stream, const Dropout& which, ConstView draw, ConstView x, View y) {
    check_count("dropout", "the draw", draw, draw_words);
    check_count("dropout", "the result", y, x.count());
    check_probability("dropout", which.probability);
    Draw at;
    std::memcpy(&at, draw.as<std::int32_t>(), sizeof at);
    const PhiloxKey key{{at.seed_low ^ static_cast<std::uint32_t>(which.stream),
                         at.seed_high ^ static_cast<std::uint32_t>(which.stream >> 32)}};
    const std::uint64_t step = std::uint64_t{at.step_high} << 32 | at.step_low;
    const std::uint64_t first =
        (std::uint64_t{at.sample_high} << 32 | at.sample_low) * static_cast<std::uint64_t>(which.sample_elements) +
        static_cast<std::uint64_t>(which.first_element);
    const Mask mask{key, step, which.probability, 1.0f / (1.0f - which.probability)};
    with_float_type("dropout", x.dtype, [&]<class T>() { run(stream, mask, first, x.count(), x.as<T>(), y.as<T>()); });
}

} // namespace tessera::kernels
