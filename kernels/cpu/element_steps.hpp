// SPDX-License-Identifier: Apache-2.0
// A step of an optimizer, element by element, on whole vectors by threads and on a padded rest.
#pragma once

#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/vector_math.hpp"

#include <algorithm>
#include <array>
#include <functional>

namespace tessera::kernels {

// A copy of the last elements, padded to a vector; written back at the end of the scope.
template <class T> class Padded {
public:
    Padded(T* memory, std::int64_t count) : memory_(memory), count_(memory == nullptr ? 0 : count) {
        std::copy_n(memory_, count_, lane_.begin());
    }
    Padded(const Padded&) = delete;
    Padded& operator=(const Padded&) = delete;
    ~Padded() { std::copy_n(lane_.begin(), count_, memory_); }

    T* data() { return memory_ == nullptr ? nullptr : lane_.data(); }

private:
    T* memory_;
    std::int64_t count_;
    std::array<T, simd::lanes> lane_{};
};

template <class T> T* advanced(T* pointer, std::int64_t count) {
    return pointer == nullptr ? nullptr : pointer + count;
}

// Calls step(count, gradient, memory...) on whole vectors by threads and on the padded rest.
template <class Step, class... T>
void for_vectors(const CpuStream& stream, std::int64_t count, const Step& step, const float* gradient, T*... memory) {
    constexpr std::int64_t vectors_per_thread = 32768 / simd::lanes;
    const std::int64_t vectors = count / simd::lanes;
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t first = begin * simd::lanes;
        step((end - begin) * simd::lanes, gradient + first, advanced(memory, first)...);
    };
    stream.parallel(vectors, vectors_per_thread, std::ref(work));
    const std::int64_t done = vectors * simd::lanes;
    if (done == count) return;
    std::array<float, simd::lanes> rest{};
    std::copy_n(gradient + done, count - done, rest.begin());
    const auto last = [&](auto&&... padded) { step(simd::lanes, rest.data(), padded.data()...); };
    last(Padded<T>(advanced(memory, done), count - done)...);
}

} // namespace tessera::kernels
