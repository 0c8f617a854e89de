// SPDX-License-Identifier: Apache-2.0
// Elementwise kernels on the GPU: one small function object per formula, mapped over 16 bytes of each input a time.
#include "kernels/elementwise.hpp"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/piece.cuh"

#include <string_view>
#include <tuple>

namespace tessera::kernels {
namespace {

constexpr int threads = 256;
constexpr int pieces = 2; // a thread's loads in flight, of each input

// 1 + tanh(u) = 2 * sigmoid(2 u), so that gelu_tanh is x * sigmoid(2 u) with u = sqrt(2 / pi) * (x + 0.044715 x^3).
constexpr float tanh_scale = 1.59576912f; // 2 * sqrt(2 / pi)
constexpr float tanh_cube = 0.044715f;

// The quotient is within two units in the last place; where exp is too large for it, the result is 0.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

// The normal distribution: P(X <= x), without cancellation on either side, and exp(-x^2 / 2) / sqrt(2 pi).
__device__ __forceinline__ float normal_probability(float x) { return 0.5f * erfcf(x * -0.707106781f); }
__device__ __forceinline__ float normal_density(float x) { return 0.398942280f * expf(-0.5f * x * x); }

struct Gelu {
    __device__ float operator()(float x) const { return x * normal_probability(x); }
};
struct GeluGradient {
    __device__ float operator()(float x, float dy) const {
        return dy * (normal_probability(x) + x * normal_density(x));
    }
};
struct GeluTanh {
    __device__ float operator()(float x) const {
        return x * sigmoid(x * (x * x * (tanh_scale * tanh_cube) + tanh_scale));
    }
};
struct GeluTanhGradient {
    __device__ float operator()(float x, float dy) const {
        const float square = x * x;
        const float s = sigmoid(x * (square * (tanh_scale * tanh_cube) + tanh_scale));
        const float slope = x * (square * (3 * tanh_scale * tanh_cube) + tanh_scale); // x * d(2 u)/dx
        return dy * (s * (1.0f - s) * slope + s);
    }
};
struct Relu {
    __device__ float operator()(float x) const { return x < 0.0f ? 0.0f : x; } // NaN stays NaN
};
struct ReluGradient {
    __device__ float operator()(float x, float dy) const { return x > 0.0f ? dy : 0.0f; }
};
struct Silu {
    __device__ float operator()(float x) const { return x * sigmoid(x); }
};
struct SiluGradient {
    __device__ float operator()(float x, float dy) const {
        const float s = sigmoid(x);
        return dy * (s * (1.0f - s) * x + s);
    }
};
struct Tanh {
    __device__ float operator()(float x) const { return tanhf(x); }
};
struct TanhGradient {
    __device__ float operator()(float x, float dy) const {
        const float t = tanhf(x);
        return dy * (1.0f - t * t);
    }
};
template <class Function> struct Gated {
    __device__ float operator()(float gate, float x) const { return Function{}(gate)*x; }
};
template <class Gradient> struct GateGradient {
    __device__ float operator()(float gate, float x, float dy) const { return Gradient{}(gate, dy * x); }
};
struct Sum {
    __device__ float operator()(float a, float b) const { return a + b; }
};
struct Product {
    __device__ float operator()(float a, float b) const { return a * b; }
};
struct Scaled {
    float factor;
    __device__ float operator()(float x) const { return x * factor; }
};

template <class T, int count> struct Inputs { const T* start[count]; };

template <class Operation, class T, int inputs>
__device__ __forceinline__ T apply(const Operation& operation, const T (&in)[inputs]) {
    if constexpr (inputs == 1)
        return cuda::from_float<T>(operation(cuda::to_float(in[0])));
    else if constexpr (inputs == 2)
        return cuda::from_float<T>(operation(cuda::to_float(in[0]), cuda::to_float(in[1])));
    else
        return cuda::from_float<T>(operation(cuda::to_float(in[0]), cuda::to_float(in[1]), cuda::to_float(in[2])));
}

// y[i] = operation(x[i]...). y may be any of the inputs: a thread reads all of its elements before it writes.
template <class Operation, class T, int inputs, int width> __global__ void __launch_bounds__(threads)
    map_kernel(Operation operation, Inputs<T, inputs> x, std::int64_t count, T* y) {
    const std::int64_t start = (static_cast<std::int64_t>(blockIdx.x) * (threads * pieces) + threadIdx.x) * width;
    cuda::Piece<T, width> in[inputs][pieces] = {};
#pragma unroll
    for (int k = 0; k < pieces; ++k)
#pragma unroll
        for (int n = 0; n < inputs; ++n)
            if (const std::int64_t at = start + k * threads * width; at + width <= count)
                in[n][k] = cuda::load_piece<width>(x.start[n] + at);
#pragma unroll
    for (int k = 0; k < pieces; ++k) {
        const std::int64_t at = start + k * threads * width;
        if (at + width <= count) {
            cuda::Piece<T, width> out;
#pragma unroll
            for (int i = 0; i < width; ++i) {
                T element[inputs];
                for (int n = 0; n < inputs; ++n)
                    element[n] = in[n][k].element[i];
                out.element[i] = apply(operation, element);
            }
            cuda::store_piece(y + at, out);
            continue;
        }
#pragma unroll 1
        for (std::int64_t i = at; i < count; ++i) { // one thread has what is left beyond the last whole piece
            T element[inputs];
            for (int n = 0; n < inputs; ++n)
                element[n] = x.start[n][i];
            y[i] = apply(operation, element);
        }
    }
}

template <class Operation, class... Views>
void map(CudaStream& stream, std::string_view kernel, const Operation& operation, View y, const Views&... x) {
    const ConstView& first = std::get<0>(std::tie(x...));
    (check_count(kernel, "the second input", x, first.count()), ...);
    check_count(kernel, "the result", y, first.count());
    const std::int64_t count = first.count();
    cuda::with_float_type(kernel.data(), first.dtype, [&]<class T>() {
        const Inputs<T, sizeof...(x)> inputs{{cuda::pointer<T>(x)...}};
        T* out = cuda::pointer<T>(y);
        cuda::with_width<T>(cuda::aligned({y.data, x.data...}), [&]<int width>() {
            cuda::launch(kernel.data(), stream, map_kernel<Operation, T, sizeof...(x), width>,
                         cuda::blocks(count, threads * pieces * width), threads, 0, operation, inputs, count, out);
        });
    });
}

// use(function, its gradient)
template <class Use> void with_activation(Activation kind, const Use& use) {
    switch (kind) {
    case Activation::gelu:
        return use(Gelu{}, GeluGradient{});
    case Activation::gelu_tanh:
        return use(GeluTanh{}, GeluTanhGradient{});
    case Activation::relu:
        return use(Relu{}, ReluGradient{});
    case Activation::silu:
        return use(Silu{}, SiluGradient{});
    case Activation::tanh:
        return use(Tanh{}, TanhGradient{});
    }
}

// y[i] = x[i] + row[i % row_count]; the row's count is a multiple of the width.
template <class T, class Row, int width> __global__ void __launch_bounds__(threads)
    add_rows_kernel(const T* x, const Row* __restrict__ row, std::int64_t row_count, std::int64_t count, T* y) {
    const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x) * width;
    if (at >= count) return;
    auto piece = cuda::load_piece<width>(x + at);
    const auto added = cuda::load_piece<width>(row + at % row_count);
#pragma unroll
    for (int i = 0; i < width; ++i)
        piece.element[i] = cuda::from_float<T>(cuda::to_float(piece.element[i]) + cuda::to_float(added.element[i]));
    cuda::store_piece(y + at, piece);
}

} // namespace

void activation(CudaStream& stream, Activation kind, ConstView x, View y) {
    with_activation(kind, [&](auto function, auto) { map(stream, name_of(kind), function, y, x); });
}

void activation_gradient(CudaStream& stream, Activation kind, ConstView x, ConstView dy, View dx) {
    with_activation(kind, [&](auto, auto gradient) { map(stream, name_of(kind), gradient, dx, x, dy); });
}

void gate(CudaStream& stream, Activation kind, ConstView gate, ConstView x, View y) {
    with_activation(kind, [&](auto function, auto) { map(stream, "gate", Gated<decltype(function)>{}, y, gate, x); });
}

void gate_gradient(CudaStream& stream, Activation kind, ConstView gate, ConstView x, ConstView dy, View dgate,
                   View dx) {
    with_activation(kind, [&](auto function, auto gradient) {
        map(stream, "gate_gradient", GateGradient<decltype(gradient)>{}, dgate, gate, x, dy);
        map(stream, "gate_gradient", Gated<decltype(function)>{}, dx, gate, dy);
    });
}

void add(CudaStream& stream, ConstView a, ConstView b, View y) { map(stream, "add", Sum{}, y, a, b); }

void multiply(CudaStream& stream, ConstView a, ConstView b, View y) { map(stream, "multiply", Product{}, y, a, b); }

void scale(CudaStream& stream, ConstView x, float factor, View y) { map(stream, "scale", Scaled{factor}, y, x); }

void add_rows(CudaStream& stream, ConstView x, ConstView row, View y) {
    check_count("add_rows", "the result", y, x.count());
    check_rows("add_rows", x, row);
    const std::int64_t count = x.count(), row_count = row.count();
    cuda::with_float_type("add_rows", x.dtype, [&]<class T>() {
        cuda::with_float_type("add_rows", row.dtype, [&]<class Row>() {
            const bool wide = row_count % cuda::Vector<T>::count == 0 && cuda::aligned({x.data, row.data, y.data});
            cuda::with_width<T>(wide, [&]<int width>() {
                cuda::launch("add_rows", stream, add_rows_kernel<T, Row, width>, cuda::blocks(count, threads * width),
                             threads, 0, cuda::pointer<T>(x), cuda::pointer<Row>(row), row_count, count,
                             cuda::pointer<T>(y));
            });
        });
    });
}

} // namespace tessera::kernels
