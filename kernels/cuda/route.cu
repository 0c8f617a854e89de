// SPDX-License-Identifier: Apache-2.0
// Routing on the GPU. A thread chooses for a token; then a warp counts the tokens of an expert in a sample, 32 at a
// time and in their order, so that nothing is added by atomics. Rows are moved by a warp each.
#include "kernels/cuda/piece.cuh"
#include "kernels/route.hpp"

#include <cmath>

namespace tessera::kernels {
namespace {

constexpr int threads = 256;
constexpr int warps = threads / 32;

__device__ __forceinline__ int lane_of_thread() { return static_cast<int>(threadIdx.x) % 32; }
__device__ __forceinline__ int warp_of_thread() { return static_cast<int>(threadIdx.x) / 32; }
__device__ __forceinline__ std::int64_t item_of_thread() {
    return static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
}
__device__ __forceinline__ std::int64_t item_of_warp() {
    return static_cast<std::int64_t>(blockIdx.x) * warps + warp_of_thread();
}

__device__ __forceinline__ std::int64_t tokens_of(const Routing& r) { return r.samples * r.tokens; }

// Of a row of logits: the largest, and the sum of exp(logit - largest).
struct Softmax {
    float maximum, sum;
};
template <class T> __device__ __forceinline__ Softmax softmax_of(const T* logits, std::int64_t experts) {
    float maximum = cuda::to_float(logits[0]), sum = 0;
    for (std::int64_t e = 1; e < experts; ++e)
        maximum = fmaxf(maximum, cuda::to_float(logits[e]));
    for (std::int64_t e = 0; e < experts; ++e)
        sum += expf(cuda::to_float(logits[e]) - maximum);
    return {maximum, sum};
}

// The expert with the largest logit that is not among the first `count` of `chosen`; NaN is no largest.
template <class T> __device__ __forceinline__ int next_choice(const T* logits, std::int64_t experts,
                                                              const std::int32_t* chosen, std::int64_t count) {
    int best = -1;
    float largest = 0;
    for (int e = 0; e < experts; ++e) {
        bool taken = false;
        for (std::int64_t j = 0; j < count; ++j)
            taken = taken || chosen[j] == e;
        const float logit = cuda::to_float(logits[e]);
        if (taken || !(best < 0 || logit > largest)) continue;
        best = e;
        largest = logit;
    }
    return best;
}

template <class T> __global__ void __launch_bounds__(threads)
    choose_kernel(Routing r, const T* __restrict__ logits, float* __restrict__ gates, std::int32_t* chosen,
                  float* __restrict__ logs) {
    const std::int64_t n = item_of_thread();
    if (n >= tokens_of(r)) return;
    logits += n * r.experts;
    gates += n * r.choices;
    chosen += n * r.choices;
    const Softmax softmax = softmax_of(logits, r.experts);
    logs[n] = softmax.maximum + logf(softmax.sum);
    float of_chosen = 0;
    for (std::int64_t j = 0; j < r.choices; ++j) {
        chosen[j] = next_choice(logits, r.experts, chosen, j);
        of_chosen += expf(cuda::to_float(logits[chosen[j]]) - softmax.maximum);
    }
    const float whole = r.choices == 1 ? softmax.sum : of_chosen;
    for (std::int64_t j = 0; j < r.choices; ++j)
        gates[j] = expf(cuda::to_float(logits[chosen[j]]) - softmax.maximum) / whole;
}

// A block for a sample. Warps share out the experts and, as one more, the squared logarithms.
template <class T> __global__ void __launch_bounds__(threads)
    place_kernel(Routing r, const T* __restrict__ logits, RouteMemory memory, std::int32_t* __restrict__ slots,
                 float* load) {
    const std::int64_t b = blockIdx.x, first_token = b * r.tokens, choices = r.tokens * r.choices;
    const int lane = lane_of_thread();
    const std::int32_t* chosen = memory.chosen + first_token * r.choices;
    slots += first_token * r.choices;
    load += b * r.experts;
    float* mass = memory.mass + b * r.experts;
    const float* logs = memory.logs + first_token;
    for (std::int64_t e = warp_of_thread(); e < r.experts; e += warps) {
        std::int64_t count = 0;
        for (std::int64_t first = 0; first < choices; first += 32) {
            const bool mine = first + lane < choices && chosen[first + lane] == e;
            const unsigned those = __ballot_sync(cuda::all_lanes, mine);
            const std::int64_t place = count + __popc(those & ((1u << lane) - 1));
            if (mine)
                slots[first + lane] = static_cast<std::int32_t>(place < r.capacity ? e * r.capacity + place : -1 - e);
            count += __popc(those);
        }
        float sum = 0;
        for (std::int64_t t = lane; t < r.tokens; t += 32)
            sum += expf(cuda::to_float(logits[(first_token + t) * r.experts + e]) - logs[t]);
        sum = cuda::warp_sum(sum);
        if (lane == 0) mass[e] = sum;
        if (lane == 0) load[e] = static_cast<float>(count);
    }
    if (warp_of_thread() == warps - 1) {
        float squares = 0;
        for (std::int64_t t = lane; t < r.tokens; t += 32)
            squares += logs[t] * logs[t];
        squares = cuda::warp_sum(squares);
        if (lane == 0) memory.parts[r.samples + b] = squares;
    }
    __syncthreads();
    if (warp_of_thread() != 0) return;
    float balance = 0, dropped = 0;
    for (std::int64_t e = lane; e < r.experts; e += 32) {
        balance += load[e] * mass[e];
        dropped += fmaxf(0.0f, load[e] - static_cast<float>(r.capacity));
    }
    balance = cuda::warp_sum(balance);
    dropped = cuda::warp_sum(dropped);
    if (lane != 0) return;
    memory.parts[b] = balance * static_cast<float>(r.experts) / static_cast<float>(choices);
    memory.parts[2 * r.samples + b] = dropped;
}

// One warp for all samples.
__global__ void __launch_bounds__(32)
    losses_kernel(Routing r, const float* __restrict__ parts, float* __restrict__ loss, float* __restrict__ losses) {
    float sums[3];
    for (int i = 0; i < 3; ++i) {
        float sum = 0;
        for (std::int64_t b = threadIdx.x; b < r.samples; b += 32)
            sum += parts[i * r.samples + b];
        sums[i] = cuda::warp_sum(sum);
    }
    if (threadIdx.x != 0) return;
    for (int i = 0; i < 3; ++i)
        losses[i] = sums[i];
    *loss = r.balance * sums[0] + r.z * sums[1];
}

__device__ __forceinline__ std::int64_t expert_of(const Routing& r, std::int32_t slot) {
    return slot >= 0 ? slot / r.capacity : -1 - slot;
}

template <class T> __global__ void __launch_bounds__(threads)
    route_gradient_kernel(Routing r, const T* logits, const float* __restrict__ gates,
                          const std::int32_t* __restrict__ slots, const float* __restrict__ load,
                          const float* __restrict__ dgates, const float* __restrict__ dloss, T* dlogits) {
    const std::int64_t n = item_of_thread();
    if (n >= tokens_of(r)) return;
    logits += n * r.experts;
    dlogits += n * r.experts;
    gates += n * r.choices;
    slots += n * r.choices;
    dgates += n * r.choices;
    load += n / r.tokens * r.experts;
    const float scale = dloss == nullptr ? 0 : *dloss;
    const float balance = scale * r.balance * static_cast<float>(r.experts) / static_cast<float>(r.choices * r.tokens);
    const Softmax softmax = softmax_of(logits, r.experts);
    const float factor = 1 / softmax.sum;
    float mean = 0, shared = 0; // the load, weighted by the probabilities
    for (std::int64_t e = 0; e < r.experts; ++e)
        mean += expf(cuda::to_float(logits[e]) - softmax.maximum) * load[e];
    mean *= factor;
    for (std::int64_t j = 0; j < r.choices; ++j)
        shared += gates[j] * dgates[j];
    const bool one = r.choices == 1;
    const float common =
        2 * scale * r.z * (softmax.maximum + logf(softmax.sum)) - balance * mean - (one ? shared : 0.0f);
    for (std::int64_t e = 0; e < r.experts; ++e) {
        const float share = expf(cuda::to_float(logits[e]) - softmax.maximum) * factor;
        float slope = share * (load[e] * balance + common);
        for (std::int64_t j = 0; j < r.choices; ++j)
            if (expert_of(r, slots[j]) == e) slope += gates[j] * (dgates[j] - (one ? 0.0f : shared));
        dlogits[e] = cuda::from_float<T>(slope);
    }
}

// The row of y that a slot of sample b is.
__device__ __forceinline__ std::int64_t row_of(const Routing& r, std::int64_t b, std::int32_t slot) {
    return (slot / r.capacity * r.samples + b) * r.capacity + slot % r.capacity;
}

// y has been cleared. A warp for a choice.
template <class T, int width> __global__ void __launch_bounds__(threads)
    dispatch_kernel(Routing r, const T* __restrict__ x, const std::int32_t* __restrict__ slots, std::int64_t columns,
                    T* __restrict__ y) {
    const std::int64_t i = item_of_warp(), n = i / r.choices;
    if (n >= tokens_of(r) || slots[i] < 0) return;
    const T* from = x + n * columns;
    T* to = y + row_of(r, n / r.tokens, slots[i]) * columns;
    for (std::int64_t c = lane_of_thread() * width; c < columns; c += 32 * width)
        cuda::store_piece(to + c, cuda::load_piece<width>(from + c));
}

// gates may be null. A warp for a token.
template <class T, int width> __global__ void __launch_bounds__(threads)
    add_slots_kernel(Routing r, const T* __restrict__ y, const float* __restrict__ gates,
                     const std::int32_t* __restrict__ slots, std::int64_t columns, T* __restrict__ x) {
    const std::int64_t n = item_of_warp();
    if (n >= tokens_of(r)) return;
    for (std::int64_t c = lane_of_thread() * width; c < columns; c += 32 * width) {
        float sums[width] = {};
        for (std::int64_t i = n * r.choices; i < (n + 1) * r.choices; ++i) {
            if (slots[i] < 0) continue;
            const auto piece = cuda::load_piece<width>(y + row_of(r, n / r.tokens, slots[i]) * columns + c);
            const float gate = gates == nullptr ? 1 : gates[i];
#pragma unroll
            for (int k = 0; k < width; ++k)
                sums[k] += gate * cuda::to_float(piece.element[k]);
        }
        cuda::Piece<T, width> out;
#pragma unroll
        for (int k = 0; k < width; ++k)
            out.element[k] = cuda::from_float<T>(sums[k]);
        cuda::store_piece(x + n * columns + c, out);
    }
}

// dy has been cleared. A warp for a choice.
template <class T, int width> __global__ void __launch_bounds__(threads)
    combine_gradient_kernel(Routing r, const T* __restrict__ dx, const T* __restrict__ y,
                            const float* __restrict__ gates, const std::int32_t* __restrict__ slots,
                            std::int64_t columns, T* __restrict__ dy, float* __restrict__ dgates) {
    const std::int64_t i = item_of_warp(), n = i / r.choices;
    if (n >= tokens_of(r)) return;
    float product = 0;
    if (slots[i] >= 0) {
        const std::int64_t row = row_of(r, n / r.tokens, slots[i]) * columns;
        const float gate = gates[i];
        for (std::int64_t c = lane_of_thread() * width; c < columns; c += 32 * width) {
            const auto slope = cuda::load_piece<width>(dx + n * columns + c);
            const auto value = cuda::load_piece<width>(y + row + c);
            cuda::Piece<T, width> out;
#pragma unroll
            for (int k = 0; k < width; ++k) {
                product += cuda::to_float(slope.element[k]) * cuda::to_float(value.element[k]);
                out.element[k] = cuda::from_float<T>(gate * cuda::to_float(slope.element[k]));
            }
            cuda::store_piece(dy + row + c, out);
        }
    }
    product = cuda::warp_sum(product);
    if (lane_of_thread() == 0) dgates[i] = product;
}

void clear(CudaStream& stream, const View& view) {
    cuda::check(cudaMemsetAsync(view.memory(), 0, static_cast<std::size_t>(view.bytes()), stream.state().stream),
                "cudaMemsetAsync", view.bytes());
}

// Calls work.template operator()<T, width>() for rows of so many columns that begin at these places.
template <class Work>
void with_rows(const char* kernel, const ConstView& x, std::initializer_list<const void*> starts, const Work& work) {
    cuda::with_float_type(kernel, x.dtype, [&]<class T>() {
        const bool wide = x.shape[-1] % cuda::Vector<T>::count == 0 && cuda::aligned(starts);
        cuda::with_width<T>(wide, [&]<int width>() { work.template operator()<T, width>(); });
    });
}

void add_slots(CudaStream& stream, const char* kernel, const Routing& r, ConstView y, ConstView gates, ConstView slots,
               View x) {
    check_route(kernel, r, {.gates = gates, .slots = slots, .x = x, .y = y});
    with_rows(kernel, x, {x.data, y.data}, [&]<class T, int width>() {
        cuda::launch(kernel, stream, add_slots_kernel<T, width>, cuda::blocks(r.rows(), warps), threads, 0, r,
                     cuda::pointer<T>(y), cuda::pointer<float>(gates), cuda::pointer<std::int32_t>(slots), x.shape[-1],
                     cuda::pointer<T>(x));
    });
}

} // namespace

void route(CudaStream& stream, const Routing& r, ConstView logits, View gates, View slots, View load, View loss,
           View losses, View workspace) {
    check_route("route", r, {.logits = logits, .gates = gates, .slots = slots, .load = load});
    const RouteMemory memory = route_memory(r, workspace);
    cuda::with_float_type("route", logits.dtype, [&]<class T>() {
        cuda::launch("route", stream, choose_kernel<T>, cuda::blocks(r.rows(), threads), threads, 0, r,
                     cuda::pointer<T>(ConstView(logits)), cuda::pointer<float>(gates), memory.chosen, memory.logs);
        cuda::launch("route", stream, place_kernel<T>, static_cast<unsigned>(r.samples), threads, 0, r,
                     cuda::pointer<T>(ConstView(logits)), memory, cuda::pointer<std::int32_t>(slots),
                     cuda::pointer<float>(load));
    });
    cuda::launch("route", stream, losses_kernel, 1, 32, 0, r, memory.parts, cuda::pointer<float>(loss),
                 cuda::pointer<float>(losses));
}

void route_gradient(CudaStream& stream, const Routing& r, ConstView logits, ConstView gates, ConstView slots,
                    ConstView load, ConstView dgates, ConstView dloss, View dlogits) {
    check_route("route_gradient", r, {.logits = logits, .gates = gates, .slots = slots, .load = load});
    check_route("route_gradient", r, {.logits = dlogits, .gates = dgates});
    cuda::with_float_type("route_gradient", logits.dtype, [&]<class T>() {
        cuda::launch("route_gradient", stream, route_gradient_kernel<T>, cuda::blocks(r.rows(), threads), threads, 0, r,
                     cuda::pointer<T>(logits), cuda::pointer<float>(gates), cuda::pointer<std::int32_t>(slots),
                     cuda::pointer<float>(load), cuda::pointer<float>(dgates), cuda::pointer<float>(dloss),
                     cuda::pointer<T>(dlogits));
    });
}

void dispatch_tokens(CudaStream& stream, const Routing& r, ConstView x, ConstView slots, View y) {
    check_route("dispatch", r, {.slots = slots, .x = x, .y = y});
    clear(stream, y);
    with_rows("dispatch", x, {x.data, y.data}, [&]<class T, int width>() {
        cuda::launch("dispatch", stream, dispatch_kernel<T, width>, cuda::blocks(r.rows() * r.choices, warps), threads,
                     0, r, cuda::pointer<T>(x), cuda::pointer<std::int32_t>(slots), x.shape[-1], cuda::pointer<T>(y));
    });
}

void dispatch_tokens_gradient(CudaStream& stream, const Routing& r, ConstView dy, ConstView slots, View dx) {
    add_slots(stream, "dispatch_gradient", r, dy, {}, slots, dx);
}

void combine_experts(CudaStream& stream, const Routing& r, ConstView y, ConstView gates, ConstView slots, View x) {
    add_slots(stream, "combine", r, y, gates, slots, x);
}

void combine_experts_gradient(CudaStream& stream, const Routing& r, ConstView dx, ConstView y, ConstView gates,
                              ConstView slots, View dy, View dgates) {
    check_route("combine_gradient", r, {.gates = gates, .slots = slots, .x = dx, .y = y});
    check_route("combine_gradient", r, {.gates = dgates, .x = dx, .y = dy});
    clear(stream, dy);
    with_rows("combine_gradient", dx, {dx.data, y.data, dy.data}, [&]<class T, int width>() {
        cuda::launch("combine_gradient", stream, combine_gradient_kernel<T, width>,
                     cuda::blocks(r.rows() * r.choices, warps), threads, 0, r, cuda::pointer<T>(dx),
                     cuda::pointer<T>(y), cuda::pointer<float>(gates), cuda::pointer<std::int32_t>(slots), dx.shape[-1],
                     cuda::pointer<T>(dy), cuda::pointer<float>(dgates));
    });
}

} // namespace tessera::kernels
