// SPDX-License-Identifier: Apache-2.0
// Optimizer steps on the CPU. Each loop body is compiled once and never inlined: an element gets the same bits in a
// whole tensor and in any slice of it.
#include "kernels/update.hpp"

#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/vector_math.hpp"

#include <cmath>

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t vectors_per_thread = 32768 / simd::lanes;

struct AdamFactors {
    float gradient;      // the clip factor
    float coupled_decay; // of the weight, added to the gradient
    float shrink;        // of the weight, for a decoupled decay
    float first_share, second_share;
    float step_size;   // learning rate / (1 - beta1^step)
    float root_factor; // 1 / sqrt(1 - beta2^step)
    float epsilon;
};

TESSERA_MULTIVERSION __attribute__((noinline)) void adam_lanes(const AdamFactors& f, std::int64_t count,
                                                               const float* gradient, float* weight, float* first,
                                                               float* second, BFloat16* low) {
    for (std::int64_t i = 0; i < count; i += simd::lanes) {
        const Floats w = simd::load(weight + i);
        const Floats g = w * f.coupled_decay + simd::load(gradient + i) * f.gradient;
        Floats m = simd::load(first + i);
        Floats v = simd::load(second + i);
        m += (g - m) * f.first_share;
        v += (g * g - v) * f.second_share;
        const Floats change = m * f.step_size / (simd::sqrt(v) * f.root_factor + f.epsilon);
        const Floats result = w * f.shrink - change;
        simd::store(weight + i, result);
        simd::store(first + i, m);
        simd::store(second + i, v);
        if (low != nullptr) simd::store(low + i, result);
    }
}

struct SgdFactors {
    float gradient;
    float decay;
    float momentum;
    float learning_rate;
};

enum class Velocity { none, first, kept };

template <Velocity velocity_state, bool nesterov>
TESSERA_MULTIVERSION __attribute__((noinline)) void sgd_lanes(const SgdFactors& f, std::int64_t count,
                                                              const float* gradient, float* weight, float* velocity,
                                                              BFloat16* low) {
    for (std::int64_t i = 0; i < count; i += simd::lanes) {
        const Floats w = simd::load(weight + i);
        const Floats g = w * f.decay + simd::load(gradient + i) * f.gradient;
        Floats change = g;
        if constexpr (velocity_state != Velocity::none) {
            Floats v = g;
            if constexpr (velocity_state == Velocity::kept) v += simd::load(velocity + i) * f.momentum;
            simd::store(velocity + i, v);
            change = nesterov ? v * f.momentum + g : v;
        }
        const Floats result = w - change * f.learning_rate;
        simd::store(weight + i, result);
        if (low != nullptr) simd::store(low + i, result);
    }
}

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

BFloat16* copy_of(std::string_view kernel, const View& low_precision_copy, std::int64_t count) {
    if (!low_precision_copy) return nullptr;
    check_count(kernel, "the copy", low_precision_copy, count);
    return low_precision_copy.as<BFloat16>();
}

} // namespace

void clip_factor(CpuStream&, ConstView square_sum, float max_norm, View norm, View factor) {
    check_count("clip_factor", "the sum", square_sum, 1);
    check_count("clip_factor", "the norm", norm, 1);
    check_count("clip_factor", "the factor", factor, 1);
    const float root = std::sqrt(*square_sum.as<float>());
    const float wanted = max_norm / (root + 1e-6f);
    *norm.as<float>() = root;
    *factor.as<float>() = max_norm <= 0 || wanted > 1 ? 1.0f : wanted;
}

void adam(CpuStream& stream, const Adam& settings, ConstView gradient, ConstView factor, View weight, View first_moment,
          View second_moment, View low_precision_copy) {
    const std::int64_t count = weight.count();
    check_count("adam", "the gradient", gradient, count);
    check_count("adam", "the factor", factor, 1);
    check_count("adam", "the first moment", first_moment, count);
    check_count("adam", "the second moment", second_moment, count);
    const double step = static_cast<double>(settings.step);
    const double first_correction = 1 - std::pow(static_cast<double>(settings.beta1), step);
    const double second_correction = 1 - std::pow(static_cast<double>(settings.beta2), step);
    const double decay = static_cast<double>(settings.learning_rate) * settings.weight_decay;
    const AdamFactors factors{.gradient = *factor.as<float>(),
                              .coupled_decay = settings.decoupled ? 0.0f : settings.weight_decay,
                              .shrink = settings.decoupled ? static_cast<float>(1 - decay) : 1.0f,
                              .first_share = static_cast<float>(1 - static_cast<double>(settings.beta1)),
                              .second_share = static_cast<float>(1 - static_cast<double>(settings.beta2)),
                              .step_size = static_cast<float>(settings.learning_rate / first_correction),
                              .root_factor = static_cast<float>(1 / std::sqrt(second_correction)),
                              .epsilon = settings.epsilon};
    for_vectors(
        stream, count, [&](auto... arguments) { adam_lanes(factors, arguments...); }, gradient.as<float>(),
        weight.as<float>(), first_moment.as<float>(), second_moment.as<float>(),
        copy_of("adam", low_precision_copy, count));
}

void sgd(CpuStream& stream, const Sgd& settings, ConstView gradient, ConstView factor, View weight, View velocity,
         View low_precision_copy) {
    const std::int64_t count = weight.count();
    check_count("sgd", "the gradient", gradient, count);
    check_count("sgd", "the factor", factor, 1);
    const bool stored = settings.momentum != 0;
    if (stored) check_count("sgd", "the velocity", velocity, count);
    const SgdFactors factors{*factor.as<float>(), settings.weight_decay, settings.momentum, settings.learning_rate};
    const auto run = [&]<Velocity state, bool nesterov>() {
        for_vectors(
            stream, count, [&](auto... arguments) { sgd_lanes<state, nesterov>(factors, arguments...); },
            gradient.as<float>(), weight.as<float>(), stored ? velocity.as<float>() : nullptr,
            copy_of("sgd", low_precision_copy, count));
    };
    if (!stored)
        run.operator()<Velocity::none, false>();
    else if (settings.first_step)
        settings.nesterov ? run.operator()<Velocity::first, true>() : run.operator()<Velocity::first, false>();
    else
        settings.nesterov ? run.operator()<Velocity::kept, true>() : run.operator()<Velocity::kept, false>();
}

} // namespace tessera::kernels
