// SPDX-License-Identifier: Apache-2.0
// Random numbers on the CPU: the scalar definition and the fills of tensors, which give the same words.
#include "kernels/random.hpp"

#include "kernels/cpu/philox.hpp"
#include "kernels/cpu/vector_math.hpp"

namespace tessera {
namespace {

using simd::Floats;

TESSERA_INLINE Floats positive_uniform(simd::Words words) { // in (0, 1], 31 bits, for a logarithm
    const simd::Words upper = words >> 1;
    simd::Ints whole;
    std::memcpy(&whole, &upper, sizeof whole);
    return __builtin_convertvector(whole, Floats) * 0x1p-31f + 0x1p-32f;
}

template <class T> TESSERA_MULTIVERSION __attribute__((noinline)) void
normal_groups(PhiloxKey key, float mean, float deviation, std::uint64_t first, std::int64_t groups, T* y) {
    for (std::int64_t g = 0; g < groups; ++g, y += random_group) {
        const simd::RandomGroup group = simd::random_group(key, 0, first + static_cast<std::uint64_t>(g));
        for (int pair = 0; pair < 2; ++pair) {
            const Floats radius = simd::sqrt(simd::log(positive_uniform(group.word[2 * pair])) * -2.0f) * deviation;
            const simd::SineCosine angle = simd::sine_cosine_of_turn(simd::uniform(group.word[2 * pair + 1]));
            simd::store(y + 2 * pair * simd::lanes, radius * angle.cosine + mean);
            simd::store(y + (2 * pair + 1) * simd::lanes, radius * angle.sine + mean);
        }
    }
}

template <class T> TESSERA_MULTIVERSION __attribute__((noinline)) void
uniform_groups(PhiloxKey key, float low, float span, std::uint64_t first, std::int64_t groups, T* y) {
    for (std::int64_t g = 0; g < groups; ++g, y += random_group) {
        const simd::RandomGroup group = simd::random_group(key, 0, first + static_cast<std::uint64_t>(g));
        for (int w = 0; w < 4; ++w)
            simd::store(y + w * simd::lanes, simd::uniform(group.word[w]) * span + low);
    }
}

// make(first_group, groups, to) writes whole groups; the edges are cut out of a group made aside.
template <class T, class Make>
void fill_groups(T* y, std::int64_t count, std::uint64_t first_element, const Make& make) {
    for_random_groups(
        first_element, count,
        [&](std::uint64_t group, std::int64_t groups, std::int64_t offset) { make(group, groups, y + offset); },
        [&](std::uint64_t group, std::int64_t begin, std::int64_t end, std::int64_t offset) {
            std::array<T, random_group> whole;
            make(group, 1, whole.data());
            std::copy(whole.begin() + begin, whole.begin() + end, y + offset);
        });
}

} // namespace

RandomKey random_key(std::uint64_t seed, std::string_view name) {
    std::uint64_t hash = 0xcbf29ce484222325ull;
    for (const char letter : name)
        hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3ull;
    return {seed, hash};
}

std::array<std::uint32_t, 4> random_words(RandomKey key, std::uint64_t high, std::uint64_t low) {
    PhiloxKey k = philox_key(key);
    std::array<std::uint32_t, 4> word = {static_cast<std::uint32_t>(low), static_cast<std::uint32_t>(low >> 32),
                                         static_cast<std::uint32_t>(high), static_cast<std::uint32_t>(high >> 32)};
    for (int round = 0; round < philox::rounds; ++round) {
        const std::uint64_t first = std::uint64_t{philox::first_multiplier} * word[0];
        const std::uint64_t second = std::uint64_t{philox::second_multiplier} * word[2];
        word = {static_cast<std::uint32_t>(second >> 32) ^ word[1] ^ k.word[0], static_cast<std::uint32_t>(second),
                static_cast<std::uint32_t>(first >> 32) ^ word[3] ^ k.word[1], static_cast<std::uint32_t>(first)};
        k.word[0] += philox::first_key_step;
        k.word[1] += philox::second_key_step;
    }
    return word;
}

float random_uniform(RandomKey key, std::uint64_t index) {
    const RandomPlace place = random_place(index);
    const std::uint32_t word = random_words(key, 0, place.block)[static_cast<std::size_t>(place.word)];
    return static_cast<float>(word >> 8) * 0x1p-24f;
}

std::uint64_t random_below(RandomKey key, std::uint64_t index, std::uint64_t bound) {
    const auto word = random_words(key, 0, index);
    const std::uint64_t bits = std::uint64_t{word[1]} << 32 | word[0];
    return static_cast<std::uint64_t>(static_cast<unsigned __int128>(bits) * bound >> 64);
}

void fill_normal(View y, RandomKey key, float mean, float deviation, std::uint64_t first_element) {
    kernels::with_float_type("fill_normal", y.dtype, [&]<class T>() {
        fill_groups(y.as<T>(), y.count(), first_element, [&](std::uint64_t group, std::int64_t groups, T* to) {
            normal_groups(philox_key(key), mean, deviation, group, groups, to);
        });
    });
}

void fill_uniform(View y, RandomKey key, float low, float high, std::uint64_t first_element) {
    kernels::with_float_type("fill_uniform", y.dtype, [&]<class T>() {
        fill_groups(y.as<T>(), y.count(), first_element, [&](std::uint64_t group, std::int64_t groups, T* to) {
            uniform_groups(philox_key(key), low, high - low, group, groups, to);
        });
    });
}

} // namespace tessera
