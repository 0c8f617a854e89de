// SPDX-License-Identifier: Apache-2.0
// LSTM and GRU on the GPU: each step is a product by the library, direction for direction, and one kernel for the cells
// of all rows, a thread for each unit.
#include "kernels/recurrent.hpp"

#include "kernels/copy.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/matmul.hpp"
#include "kernels/memory.hpp"
#include "kernels/recurrent_check.hpp"

#include <algorithm>

namespace tessera::kernels {
namespace {

constexpr int threads = 256;

struct Step { // of all directions
    std::int64_t rows, steps, directions, hidden;
    std::int64_t number; // in a direction's order: direction 1 begins with the last
};

// One unit of one row and direction, in that order from inside out, and where it stands.
struct Unit {
    std::int64_t b, d, u, t, before;
    bool there;

    __device__ __forceinline__ explicit Unit(const Step& s) {
        const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
        there = i < s.rows * s.directions * s.hidden;
        u = i % s.hidden;
        b = i / s.hidden % s.rows;
        d = i / s.hidden / s.rows;
        t = d == 0 ? s.number : s.steps - 1 - s.number;
        before = s.number == 0 ? -1 : d == 0 ? t - 1 : t + 1;
    }
    __device__ __forceinline__ std::int64_t at(const Step& s, std::int64_t step) const { // in (B, T, D, H)
        return ((b * s.steps + step) * s.directions + d) * s.hidden + u;
    }
    __device__ __forceinline__ std::int64_t gate(const Step& s, int gates, int g) const { // in (B, T, D, gates, H)
        return (((b * s.steps + t) * s.directions + d) * gates + g) * s.hidden + u;
    }
    __device__ __forceinline__ std::int64_t outside(const Step& s) const { // in (B, D, H)
        return (b * s.directions + d) * s.hidden + u;
    }
    __device__ __forceinline__ std::int64_t inside(const Step& s, int gates = 1,
                                                   int g = 0) const { // in (D, B, gates, H)
        return ((d * s.rows + b) * gates + g) * s.hidden + u;
    }
    __device__ __forceinline__ std::int64_t bias(const Step& s, int gates, int g) const { // in (D, gates, H)
        return (d * gates + g) * s.hidden + u;
    }
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T> struct Forward {
    const T* x;
    const float *bias, *h0, *c0; // may be null
    const float* product;        // (D, B, G, H); null: there is none yet
    T *y, *gates;
    float* cells;
    float *last_h, *last_c; // may be null
    T* h;                   // (D, B, H)
};

// What reaches gate g beside x.
template <class T>
__device__ __forceinline__ float sum_of(const Forward<T>& a, const Step& s, const Unit& unit, int gates, int g) {
    float sum = a.bias == nullptr ? 0.0f : a.bias[unit.bias(s, gates, g)];
    if (a.product != nullptr) sum += a.product[unit.inside(s, gates, g)];
    return sum;
}

template <class T> __global__ void __launch_bounds__(threads) lstm_kernel(Step s, Forward<T> a) {
    const Unit unit(s);
    if (!unit.there) return;
    float z[4];
#pragma unroll
    for (int g = 0; g < 4; ++g)
        z[g] = cuda::to_float(a.x[unit.gate(s, 4, g)]) + sum_of(a, s, unit, 4, g);
    const float i = sigmoid(z[0]), f = sigmoid(z[1]), g = tanhf(z[2]), o = sigmoid(z[3]);
    float cell = i * g;
    if (unit.before >= 0)
        cell += f * a.cells[unit.at(s, unit.before)];
    else if (a.c0 != nullptr)
        cell += f * a.c0[unit.outside(s)];
    const T output = cuda::from_float<T>(o * tanhf(cell));
    a.gates[unit.gate(s, 4, 0)] = cuda::from_float<T>(i);
    a.gates[unit.gate(s, 4, 1)] = cuda::from_float<T>(f);
    a.gates[unit.gate(s, 4, 2)] = cuda::from_float<T>(g);
    a.gates[unit.gate(s, 4, 3)] = cuda::from_float<T>(o);
    a.cells[unit.at(s, unit.t)] = cell;
    a.y[unit.at(s, unit.t)] = output;
    a.h[unit.inside(s)] = output;
    if (s.number + 1 < s.steps) return;
    if (a.last_h != nullptr) a.last_h[unit.outside(s)] = cuda::to_float(output);
    if (a.last_c != nullptr) a.last_c[unit.outside(s)] = cell;
}

template <class T> __global__ void __launch_bounds__(threads) gru_kernel(Step s, Forward<T> a) {
    const Unit unit(s);
    if (!unit.there) return;
    const float r = sigmoid(cuda::to_float(a.x[unit.gate(s, 3, 0)]) + sum_of(a, s, unit, 3, 0));
    const float z = sigmoid(cuda::to_float(a.x[unit.gate(s, 3, 1)]) + sum_of(a, s, unit, 3, 1));
    const float q = sum_of(a, s, unit, 3, 2);
    const float n = tanhf(cuda::to_float(a.x[unit.gate(s, 3, 2)]) + r * q);
    const T output = cuda::from_float<T>((1.0f - z) * n + z * cuda::to_float(a.h[unit.inside(s)]));
    a.gates[unit.gate(s, 4, 0)] = cuda::from_float<T>(r);
    a.gates[unit.gate(s, 4, 1)] = cuda::from_float<T>(z);
    a.gates[unit.gate(s, 4, 2)] = cuda::from_float<T>(n);
    a.gates[unit.gate(s, 4, 3)] = cuda::from_float<T>(q);
    a.y[unit.at(s, unit.t)] = output;
    a.h[unit.inside(s)] = output;
    if (s.number + 1 == s.steps && a.last_h != nullptr) a.last_h[unit.outside(s)] = cuda::to_float(output);
}

// h (D, B, H) = h0 (B, D, H); without it 0.
template <class T> __global__ void __launch_bounds__(threads) start_kernel(Step s, const float* h0, T* h) {
    const Unit unit(s);
    if (unit.there) h[unit.inside(s)] = cuda::from_float<T>(h0 == nullptr ? 0.0f : h0[unit.outside(s)]);
}

template <class T> struct Backward {
    const T *gates, *dy;
    const T* y;                   // of gru
    const float *cells, *c0, *h0; // cells and c0 of lstm, h0 of gru; c0 and h0 may be null
    const float* product;         // (D, B, H); null: there is none yet
    T *dx, *dq;                   // dq of gru
    float* beside;                // (D, B, H): from step to step, dc of lstm, dh of gru
    T* slopes;                    // (D, B, G, H)
};

template <class T> __global__ void __launch_bounds__(threads) lstm_gradient_kernel(Step s, Backward<T> a) {
    const Unit unit(s);
    if (!unit.there) return;
    const float i = cuda::to_float(a.gates[unit.gate(s, 4, 0)]), f = cuda::to_float(a.gates[unit.gate(s, 4, 1)]);
    const float g = cuda::to_float(a.gates[unit.gate(s, 4, 2)]), o = cuda::to_float(a.gates[unit.gate(s, 4, 3)]);
    const float t = tanhf(a.cells[unit.at(s, unit.t)]);
    float slope = cuda::to_float(a.dy[unit.at(s, unit.t)]);
    float dc = 0;
    if (a.product != nullptr) {
        slope += a.product[unit.inside(s)];
        dc = a.beside[unit.inside(s)];
    }
    dc += slope * o * (1.0f - t * t);
    const float before = unit.before >= 0  ? a.cells[unit.at(s, unit.before)]
                         : a.c0 != nullptr ? a.c0[unit.outside(s)]
                                           : 0.0f;
    const float d[4] = {dc * g * i * (1.0f - i), dc * before * f * (1.0f - f), dc * i * (1.0f - g * g),
                        slope * t * o * (1.0f - o)};
#pragma unroll
    for (int gate = 0; gate < 4; ++gate) {
        const T value = cuda::from_float<T>(d[gate]);
        a.dx[unit.gate(s, 4, gate)] = value;
        a.slopes[unit.inside(s, 4, gate)] = value;
    }
    a.beside[unit.inside(s)] = dc * f;
}

template <class T> __global__ void __launch_bounds__(threads) gru_gradient_kernel(Step s, Backward<T> a) {
    const Unit unit(s);
    if (!unit.there) return;
    const float r = cuda::to_float(a.gates[unit.gate(s, 4, 0)]), z = cuda::to_float(a.gates[unit.gate(s, 4, 1)]);
    const float n = cuda::to_float(a.gates[unit.gate(s, 4, 2)]), q = cuda::to_float(a.gates[unit.gate(s, 4, 3)]);
    float before = 0;
    if (unit.before >= 0)
        before = cuda::to_float(a.y[unit.at(s, unit.before)]);
    else if (a.h0 != nullptr)
        before = cuda::to_float(cuda::from_float<T>(a.h0[unit.outside(s)]));
    float slope = cuda::to_float(a.dy[unit.at(s, unit.t)]);
    if (a.product != nullptr) slope += a.product[unit.inside(s)] + a.beside[unit.inside(s)];
    const float dn = slope * (1.0f - z) * (1.0f - n * n);
    const float of_x[3] = {dn * q * r * (1.0f - r), slope * (before - n) * z * (1.0f - z), dn};
#pragma unroll
    for (int gate = 0; gate < 3; ++gate) {
        const T of_q = cuda::from_float<T>(gate == 2 ? dn * r : of_x[gate]);
        a.dx[unit.gate(s, 3, gate)] = cuda::from_float<T>(of_x[gate]);
        a.dq[unit.gate(s, 3, gate)] = of_q;
        a.slopes[unit.inside(s, 3, gate)] = of_q;
    }
    a.beside[unit.inside(s)] = slope * z;
}

// What a step's product is, and where things lie in the workspace.
struct Work {
    Matmul product; // of a direction
    View factor;    // (D, B, H) or, backward, (D, B, G, H)
    View result;    // (D, B, G, H) or (D, B, H), f32
    View beside;    // (D, B, H) f32
    View library;   // matmul's own
    std::int64_t bytes = 0;

    Work(const CudaStream& stream, const RecurrentSizes& n, std::int64_t gates, DType dtype, bool backward,
         const View& workspace) {
        const std::int64_t wide = gates * n.hidden;
        product = {.m = n.rows,
                   .n = backward ? n.hidden : wide,
                   .k = backward ? wide : n.hidden,
                   .transpose_b = !backward,
                   .input = dtype,
                   .output = DType::f32};
        auto* memory = static_cast<std::byte*>(workspace.memory());
        const auto take = [&](const Shape& shape, DType type) {
            const View view(memory == nullptr ? nullptr : memory + bytes, shape, type);
            bytes += align_up(view.bytes());
            return view;
        };
        factor = take({n.directions, n.rows, product.k}, dtype);
        result = take({n.directions, n.rows, product.n}, DType::f32);
        beside = take({n.state()}, DType::f32);
        library = take({matmul_workspace_bytes(stream, product) / 4}, DType::f32);
    }

    void multiply(CudaStream& stream, const RecurrentSizes& n, const ConstView& w) const {
        const auto part = [&](const ConstView& whole, std::int64_t d) {
            const std::int64_t count = whole.count() / n.directions;
            return View(static_cast<std::byte*>(const_cast<void*>(whole.data)) + d * count * bytes_of(whole.dtype),
                        {count}, whole.dtype);
        };
        for (std::int64_t d = 0; d < n.directions; ++d)
            matmul(stream, product, part(factor, d), part(w, d), {}, part(result, d), library);
    }
};

Step step_of(const RecurrentSizes& n, std::int64_t number) { return {n.rows, n.steps, n.directions, n.hidden, number}; }

template <class T, class Kernel> void run_forward(CudaStream& stream, const char* name, const Kernel& kernel,
                                                  const RecurrentSizes& n, const Work& work, const ConstView& w,
                                                  Forward<T> a) {
    const unsigned grid = cuda::blocks(n.state(), threads);
    a.h = cuda::pointer<T>(work.factor);
    cuda::launch(name, stream, start_kernel<T>, grid, threads, 0, step_of(n, 0), a.h0, a.h);
    for (std::int64_t number = 0; number < n.steps; ++number) {
        const bool multiplies = number > 0 || a.h0 != nullptr;
        if (multiplies) work.multiply(stream, n, w);
        a.product = multiplies ? cuda::pointer<float>(work.result) : nullptr;
        cuda::launch(name, stream, kernel, grid, threads, 0, step_of(n, number), a);
    }
}

template <class T, class Kernel> void run_backward(CudaStream& stream, const char* name, const Kernel& kernel,
                                                   const RecurrentSizes& n, const Work& work, const ConstView& w,
                                                   Backward<T> a) {
    a.slopes = cuda::pointer<T>(work.factor);
    a.beside = cuda::pointer<float>(work.beside);
    for (std::int64_t number = n.steps - 1; number >= 0; --number) {
        const bool multiplies = number + 1 < n.steps;
        if (multiplies) work.multiply(stream, n, w);
        a.product = multiplies ? cuda::pointer<float>(work.result) : nullptr;
        cuda::launch(name, stream, kernel, cuda::blocks(n.state(), threads), threads, 0, step_of(n, number), a);
    }
}

} // namespace

std::int64_t recurrent_workspace_bytes(const CudaStream& stream, const RecurrentSizes& sizes, std::int64_t gates,
                                       DType dtype) {
    return std::max(Work(stream, sizes, gates, dtype, false, {}).bytes,
                    Work(stream, sizes, gates, dtype, true, {}).bytes);
}

void lstm(CudaStream& stream, const RecurrentSizes& n, ConstView x, ConstView w, ConstView bias, const LstmState& state,
          View y, View gates, View cells, View workspace) {
    const RecurrentCounts counts(n, 4);
    const Work work(stream, n, 4, x.dtype, false, workspace);
    check_recurrent("lstm", x.dtype,
                    {{"x", x, counts.x},
                     {"w", w, counts.w},
                     {"bias", bias, counts.bias, true, true},
                     {"h0", state.h0, counts.state, true, true},
                     {"c0", state.c0, counts.state, true, true},
                     {"last h", state.last_h, counts.state, true, true},
                     {"last c", state.last_c, counts.state, true, true},
                     {"y", y, counts.y},
                     {"gates", gates, counts.gates},
                     {"cells", cells, counts.y, true}},
                    workspace, work.bytes);
    cuda::with_float_type("lstm", x.dtype, [&]<class T>() {
        Forward<T> a{};
        a.x = cuda::pointer<T>(x);
        a.bias = cuda::pointer<float>(bias);
        a.h0 = cuda::pointer<float>(state.h0);
        a.c0 = cuda::pointer<float>(state.c0);
        a.y = cuda::pointer<T>(y);
        a.gates = cuda::pointer<T>(gates);
        a.cells = cuda::pointer<float>(cells);
        a.last_h = cuda::pointer<float>(state.last_h);
        a.last_c = cuda::pointer<float>(state.last_c);
        run_forward(stream, "lstm", lstm_kernel<T>, n, work, w, a);
    });
}

void lstm_gradient(CudaStream& stream, const RecurrentSizes& n, ConstView w, ConstView gates, ConstView cells,
                   ConstView c0, ConstView dy, View dx, View workspace) {
    const RecurrentCounts counts(n, 4);
    const Work work(stream, n, 4, dy.dtype, true, workspace);
    check_recurrent("lstm_gradient", dy.dtype,
                    {{"w", w, counts.w},
                     {"gates", gates, counts.gates},
                     {"cells", cells, counts.y, true},
                     {"c0", c0, counts.state, true, true},
                     {"dy", dy, counts.y},
                     {"dx", dx, counts.x}},
                    workspace, work.bytes);
    cuda::with_float_type("lstm_gradient", dy.dtype, [&]<class T>() {
        Backward<T> a{};
        a.gates = cuda::pointer<T>(gates);
        a.dy = cuda::pointer<T>(dy);
        a.cells = cuda::pointer<float>(cells);
        a.c0 = cuda::pointer<float>(c0);
        a.dx = cuda::pointer<T>(dx);
        run_backward(stream, "lstm_gradient", lstm_gradient_kernel<T>, n, work, w, a);
    });
}

void gru(CudaStream& stream, const RecurrentSizes& n, ConstView x, ConstView w, ConstView bias, ConstView h0, View y,
         View gates, View last_h, View workspace) {
    const RecurrentCounts counts(n, 3);
    const Work work(stream, n, 3, x.dtype, false, workspace);
    check_recurrent("gru", x.dtype,
                    {{"x", x, counts.x},
                     {"w", w, counts.w},
                     {"bias", bias, counts.bias, true, true},
                     {"h0", h0, counts.state, true, true},
                     {"last h", last_h, counts.state, true, true},
                     {"y", y, counts.y},
                     {"gates", gates, counts.gates}},
                    workspace, work.bytes);
    cuda::with_float_type("gru", x.dtype, [&]<class T>() {
        Forward<T> a{};
        a.x = cuda::pointer<T>(x);
        a.bias = cuda::pointer<float>(bias);
        a.h0 = cuda::pointer<float>(h0);
        a.y = cuda::pointer<T>(y);
        a.gates = cuda::pointer<T>(gates);
        a.last_h = cuda::pointer<float>(last_h);
        run_forward(stream, "gru", gru_kernel<T>, n, work, w, a);
    });
}

void gru_gradient(CudaStream& stream, const RecurrentSizes& n, ConstView w, ConstView gates, ConstView y, ConstView h0,
                  ConstView dy, View dx, View dq, View workspace) {
    const RecurrentCounts counts(n, 3);
    const Work work(stream, n, 3, dy.dtype, true, workspace);
    check_recurrent("gru_gradient", dy.dtype,
                    {{"w", w, counts.w},
                     {"gates", gates, counts.gates},
                     {"y", y, counts.y},
                     {"h0", h0, counts.state, true, true},
                     {"dy", dy, counts.y},
                     {"dx", dx, counts.x},
                     {"dq", dq, counts.x}},
                    workspace, work.bytes);
    cuda::with_float_type("gru_gradient", dy.dtype, [&]<class T>() {
        Backward<T> a{};
        a.gates = cuda::pointer<T>(gates);
        a.dy = cuda::pointer<T>(dy);
        a.y = cuda::pointer<T>(y);
        a.h0 = cuda::pointer<float>(h0);
        a.dx = cuda::pointer<T>(dx);
        a.dq = cuda::pointer<T>(dq);
        run_backward(stream, "gru_gradient", gru_gradient_kernel<T>, n, work, w, a);
    });
}

} // namespace tessera::kernels
