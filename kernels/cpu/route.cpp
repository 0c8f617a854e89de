// SPDX-License-Identifier: Apache-2.0
// Routing on the CPU. A sample's tokens choose one after another; threads share out samples, or tokens where each
// stands alone.
#include "kernels/route.hpp"

#include "kernels/cpu/cross_entropy_row.hpp"

#include <cstring>
#include <numeric>

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t elements_per_thread = 16384;

// The expert with the largest logit that is not among the first `count` of `chosen`; NaN is no largest.
template <class T> TESSERA_INLINE std::int32_t next_choice(const T* logits, std::int64_t experts,
                                                           const std::int32_t* chosen, std::int64_t count) {
    std::int32_t best = -1;
    for (std::int32_t e = 0; e < experts; ++e) {
        if (std::find(chosen, chosen + count, e) != chosen + count) continue;
        if (best < 0 || static_cast<float>(logits[e]) > static_cast<float>(logits[best])) best = e;
    }
    return best;
}

// One sample: `gates` to `mass` are its own. Returns the sum of the squared logarithms.
template <class T> TESSERA_MULTIVERSION float route_sample(const Routing& r, const T* logits, float* gates,
                                                           std::int32_t* slots, float* load, float* mass,
                                                           std::int32_t* chosen) {
    alignas(64) float powers[most_experts + simd::lanes];
    std::fill_n(load, r.experts, 0.0f);
    std::fill_n(mass, r.experts, 0.0f);
    float squares = 0;
    for (std::int64_t t = 0; t < r.tokens; ++t, logits += r.experts, gates += r.choices, slots += r.choices) {
        const float maximum = maximum_of(logits, r.experts, lowest_logit);
        const float sum = simd::sum(sum_of_powers(logits, r.experts, maximum, powers));
        const float log = maximum + simd::log(simd::all(sum))[0];
        squares += log * log;
        const float factor = 1 / sum;
        simd::for_columns(r.experts, [&](std::int64_t e, auto width) TESSERA_INLINED {
            simd::store(mass + e, simd::load(mass + e, width) + simd::load(powers + e) * factor, width);
        });
        float of_chosen = 0;
        for (std::int64_t j = 0; j < r.choices; ++j) {
            chosen[j] = next_choice(logits, r.experts, chosen, j);
            of_chosen += powers[chosen[j]];
        }
        for (std::int64_t j = 0; j < r.choices; ++j) {
            const std::int32_t e = chosen[j];
            gates[j] = powers[e] / (r.choices == 1 ? sum : of_chosen);
            const auto place = static_cast<std::int64_t>(load[e]++);
            slots[j] = place < r.capacity ? static_cast<std::int32_t>(e * r.capacity + place) : -1 - e;
        }
    }
    return squares;
}

void sum_losses(const Routing& r, const float* parts, float* loss, float* losses) {
    for (std::int64_t i = 0; i < 3; ++i)
        losses[i] = std::accumulate(parts + i * r.samples, parts + (i + 1) * r.samples, 0.0f);
    *loss = r.balance * losses[0] + r.z * losses[1];
}

std::int64_t expert_of(const Routing& r, std::int32_t slot) { return slot >= 0 ? slot / r.capacity : -1 - slot; }

// What does not differ from token to token.
struct RouteGradient {
    float balance, z; // times the loss's gradient
    const float* load;
};

template <class T> TESSERA_MULTIVERSION void route_gradient_rows(const Routing& r, const T* logits, const float* gates,
                                                                 const std::int32_t* slots, const float* dgates,
                                                                 RouteGradient loss, std::int64_t begin,
                                                                 std::int64_t end, T* dlogits) {
    alignas(64) float row[most_experts + simd::lanes];
    for (std::int64_t n = begin; n < end; ++n) {
        const T* from = logits + n * r.experts;
        const float* load = loss.load + n / r.tokens * r.experts;
        const float maximum = maximum_of(from, r.experts, lowest_logit);
        const float sum = simd::sum(sum_of_powers(from, r.experts, maximum, row));
        const float factor = 1 / sum;
        Floats of_load{};
        simd::for_columns(r.experts, [&](std::int64_t e, auto width) TESSERA_INLINED {
            of_load += simd::load(row + e) * simd::load(load + e, width);
        });
        const float mean = simd::sum(of_load) * factor; // of the load, weighted by the probabilities
        float shared = 0;
        for (std::int64_t j = 0; j < r.choices; ++j)
            shared += gates[n * r.choices + j] * dgates[n * r.choices + j];
        const float log = maximum + simd::log(simd::all(sum))[0];
        const float common = 2 * loss.z * log - loss.balance * mean - (r.choices == 1 ? shared : 0);
        simd::for_columns(r.experts, [&](std::int64_t e, auto width) TESSERA_INLINED {
            const Floats slope = simd::load(load + e, width) * loss.balance + common;
            simd::store(row + e, simd::load(row + e) * factor * slope);
        });
        for (std::int64_t j = 0; j < r.choices; ++j) {
            const std::int64_t choice = n * r.choices + j;
            row[expert_of(r, slots[choice])] += gates[choice] * (dgates[choice] - (r.choices == 1 ? 0 : shared));
        }
        simd::for_columns(r.experts, [&](std::int64_t e, auto width) TESSERA_INLINED {
            simd::store(dlogits + n * r.experts + e, simd::load(row + e), width);
        });
    }
}

// The row of y that a slot of sample b is.
std::int64_t row_of(const Routing& r, std::int64_t b, std::int32_t slot) {
    return (slot / r.capacity * r.samples + b) * r.capacity + slot % r.capacity;
}

void clear_slots(const Routing& r, std::int64_t b, std::int64_t row_bytes, std::byte* y) {
    for (std::int64_t e = 0; e < r.experts; ++e)
        std::memset(y + (e * r.samples + b) * r.capacity * row_bytes, 0,
                    static_cast<std::size_t>(r.capacity * row_bytes));
}

// x[n,:] = the sum of y's rows, each times its gate where there are gates.
template <class T> TESSERA_MULTIVERSION void add_slots(const Routing& r, const T* y, const float* gates,
                                                       const std::int32_t* slots, std::int64_t width,
                                                       std::int64_t begin, std::int64_t end, T* x) {
    for (std::int64_t n = begin; n < end; ++n)
        simd::for_columns(width, [&](std::int64_t c, auto lanes) TESSERA_INLINED {
            Floats sum{};
            for (std::int64_t i = n * r.choices; i < (n + 1) * r.choices; ++i) {
                if (slots[i] < 0) continue;
                const Floats value = simd::load(y + row_of(r, n / r.tokens, slots[i]) * width + c, lanes);
                sum += gates == nullptr ? value : value * gates[i];
            }
            simd::store(x + n * width + c, sum, lanes);
        });
}

template <class T> TESSERA_MULTIVERSION void combine_gradient_rows(const Routing& r, const T* dx, const T* y,
                                                                   const float* gates, const std::int32_t* slots,
                                                                   std::int64_t width, std::int64_t begin,
                                                                   std::int64_t end, T* dy, float* dgates) {
    for (std::int64_t i = begin; i < end; ++i) {
        dgates[i] = 0;
        if (slots[i] < 0) continue;
        const std::int64_t n = i / r.choices, row = row_of(r, n / r.tokens, slots[i]) * width;
        Floats product{};
        simd::for_columns(width, [&](std::int64_t c, auto lanes) TESSERA_INLINED {
            const Floats slope = simd::load(dx + n * width + c, lanes);
            product += slope * simd::load(y + row + c, lanes);
            simd::store(dy + row + c, slope * gates[i], lanes);
        });
        dgates[i] = simd::sum(product);
    }
}

} // namespace

void route(CpuStream& stream, const Routing& r, ConstView logits, View gates, View slots, View load, View loss,
           View losses, View workspace) {
    check_route("route", r, {.logits = logits, .gates = gates, .slots = slots, .load = load});
    const RouteMemory memory = route_memory(r, workspace);
    with_float_type("route", logits.dtype, [&]<class T>() {
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t b = begin; b < end; ++b) {
                const std::int64_t choices = b * r.tokens * r.choices;
                const float* own = load.as<float>() + b * r.experts;
                const float* mass = memory.mass + b * r.experts;
                memory.parts[r.samples + b] =
                    route_sample(r, logits.as<T>() + b * r.tokens * r.experts, gates.as<float>() + choices,
                                 slots.as<std::int32_t>() + choices, load.as<float>() + b * r.experts,
                                 memory.mass + b * r.experts, memory.chosen + choices);
                float balance = 0, dropped = 0;
                for (std::int64_t e = 0; e < r.experts; ++e) {
                    balance += own[e] * mass[e];
                    dropped += std::max(0.0f, own[e] - static_cast<float>(r.capacity));
                }
                memory.parts[b] = balance * static_cast<float>(r.experts) / static_cast<float>(r.choices * r.tokens);
                memory.parts[2 * r.samples + b] = dropped;
            }
        };
        stream.parallel(r.samples, rows_per_thread(r.tokens * r.experts, elements_per_thread), std::ref(work));
    });
    sum_losses(r, memory.parts, loss.as<float>(), losses.as<float>());
}

void route_gradient(CpuStream& stream, const Routing& r, ConstView logits, ConstView gates, ConstView slots,
                    ConstView load, ConstView dgates, ConstView dloss, View dlogits) {
    check_route("route_gradient", r, {.logits = logits, .gates = gates, .slots = slots, .load = load});
    check_route("route_gradient", r, {.logits = dlogits, .gates = dgates});
    const float scale = dloss ? *dloss.as<float>() : 0;
    const RouteGradient loss{scale * r.balance * static_cast<float>(r.experts) /
                                 static_cast<float>(r.choices * r.tokens),
                             scale * r.z, load.as<float>()};
    with_float_type("route_gradient", logits.dtype, [&]<class T>() {
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            route_gradient_rows(r, logits.as<T>(), gates.as<float>(), slots.as<std::int32_t>(), dgates.as<float>(),
                                loss, begin, end, dlogits.as<T>());
        };
        stream.parallel(r.rows(), rows_per_thread(r.experts, elements_per_thread), std::ref(work));
    });
}

void dispatch_tokens(CpuStream& stream, const Routing& r, ConstView x, ConstView slots, View y) {
    check_route("dispatch", r, {.slots = slots, .x = x, .y = y});
    const std::int64_t row_bytes = x.shape[-1] * bytes_of(x.dtype);
    const auto* from = static_cast<const std::byte*>(x.data);
    auto* to = static_cast<std::byte*>(y.memory());
    const auto* slot = slots.as<std::int32_t>();
    const auto work = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t b = begin; b < end; ++b) {
            clear_slots(r, b, row_bytes, to);
            for (std::int64_t i = b * r.tokens * r.choices; i < (b + 1) * r.tokens * r.choices; ++i)
                if (slot[i] >= 0)
                    std::memcpy(to + row_of(r, b, slot[i]) * row_bytes, from + i / r.choices * row_bytes,
                                static_cast<std::size_t>(row_bytes));
        }
    };
    stream.parallel(r.samples, rows_per_thread(r.experts * r.capacity * x.shape[-1], elements_per_thread),
                    std::ref(work));
}

namespace {

void add_slots(CpuStream& stream, std::string_view kernel, const Routing& r, ConstView y, ConstView gates,
               ConstView slots, View x) {
    check_route(kernel, r, {.gates = gates, .slots = slots, .x = x, .y = y});
    with_float_type(kernel, y.dtype, [&]<class T>() {
        const float* factors = gates ? gates.as<float>() : nullptr;
        const auto work = [&](std::int64_t begin, std::int64_t end) {
            add_slots(r, y.as<T>(), factors, slots.as<std::int32_t>(), x.shape[-1], begin, end, x.as<T>());
        };
        stream.parallel(r.rows(), rows_per_thread(x.shape[-1], elements_per_thread), std::ref(work));
    });
}

} // namespace

void dispatch_tokens_gradient(CpuStream& stream, const Routing& r, ConstView dy, ConstView slots, View dx) {
    add_slots(stream, "dispatch_gradient", r, dy, {}, slots, dx);
}

void combine_experts(CpuStream& stream, const Routing& r, ConstView y, ConstView gates, ConstView slots, View x) {
    add_slots(stream, "combine", r, y, gates, slots, x);
}

void combine_experts_gradient(CpuStream& stream, const Routing& r, ConstView dx, ConstView y, ConstView gates,
                              ConstView slots, View dy, View dgates) {
    check_route("combine_gradient", r, {.gates = gates, .slots = slots, .x = dx, .y = y});
    check_route("combine_gradient", r, {.gates = dgates, .x = dx, .y = dy});
    with_float_type("combine_gradient", y.dtype, [&]<class T>() {
        const auto work = [&](std::int64_t begin, std::int64_t end) { // samples
            const std::int64_t choices = r.tokens * r.choices;
            for (std::int64_t b = begin; b < end; ++b)
                clear_slots(r, b, dx.shape[-1] * bytes_of(dx.dtype), static_cast<std::byte*>(dy.memory()));
            combine_gradient_rows(r, dx.as<T>(), y.as<T>(), gates.as<float>(), slots.as<std::int32_t>(), dx.shape[-1],
                                  begin * choices, end * choices, dy.as<T>(), dgates.as<float>());
        };
        stream.parallel(r.samples, rows_per_thread(r.tokens * r.choices * dx.shape[-1], elements_per_thread),
                        std::ref(work));
    });
}

} // namespace tessera::kernels
