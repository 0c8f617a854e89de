// SPDX-License-Identifier: Apache-2.0
// Elementwise kernels on the CPU: one small function object per formula, mapped over sixteen lanes at a time.
#include "kernels/elementwise.hpp"

#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/vector_math.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

namespace tessera {
namespace {

constexpr std::array<std::string_view, 5> activation_names = {"gelu", "gelu_tanh", "relu", "silu", "tanh"};

} // namespace

Activation activation_named(std::string_view name) {
    for (std::size_t i = 0; i < activation_names.size(); ++i)
        if (activation_names[i] == name) return static_cast<Activation>(i);
    throw ConfigError(no_such_name("activation", name, {activation_names.begin(), activation_names.end()}));
}

std::string_view name_of(Activation activation) { return activation_names[static_cast<std::size_t>(activation)]; }

} // namespace tessera

namespace tessera::kernels {
namespace {

using simd::Floats;

constexpr std::int64_t cheap_grain = 65536;    // elements of a sum or product worth a thread
constexpr std::int64_t function_grain = 16384; // elements of an activation worth a thread

// 1 + tanh(u) = 2 * sigmoid(2 u), so that gelu_tanh is x * sigmoid(2 u) with u = sqrt(2 / pi) * (x + 0.044715 x^3).
constexpr float tanh_scale = 1.59576912f; // 2 * sqrt(2 / pi)
constexpr float tanh_cube = 0.044715f;

struct Gelu {
    TESSERA_INLINE Floats operator()(Floats x) const { return x * simd::normal(x).probability; }
};
struct GeluGradient {
    TESSERA_INLINE Floats operator()(Floats x, Floats dy) const {
        const simd::Normal normal = simd::normal(x);
        return dy * (normal.probability + x * normal.density);
    }
};
struct GeluTanh {
    TESSERA_INLINE Floats operator()(Floats x) const {
        return x * simd::sigmoid(x * (x * x * (tanh_scale * tanh_cube) + tanh_scale));
    }
};
struct GeluTanhGradient {
    TESSERA_INLINE Floats operator()(Floats x, Floats dy) const {
        const Floats square = x * x;
        const Floats s = simd::sigmoid(x * (square * (tanh_scale * tanh_cube) + tanh_scale));
        const Floats slope = x * (square * (3 * tanh_scale * tanh_cube) + tanh_scale); // x * d(2 u)/dx
        return dy * (s * (1.0f - s) * slope + s);
    }
};
struct Relu {
    TESSERA_INLINE Floats operator()(Floats x) const { return x < 0.0f ? Floats{} : x; } // NaN stays NaN
};
struct ReluGradient {
    TESSERA_INLINE Floats operator()(Floats x, Floats dy) const { return x > 0.0f ? dy : Floats{}; }
};
struct Silu {
    TESSERA_INLINE Floats operator()(Floats x) const { return x * simd::sigmoid(x); }
};
struct SiluGradient {
    TESSERA_INLINE Floats operator()(Floats x, Floats dy) const {
        const Floats s = simd::sigmoid(x);
        return dy * (s * (1.0f - s) * x + s);
    }
};
struct Tanh {
    TESSERA_INLINE Floats operator()(Floats x) const { return simd::tanh(x); }
};
struct TanhGradient {
    TESSERA_INLINE Floats operator()(Floats x, Floats dy) const {
        const Floats t = simd::tanh(x);
        return dy * (1.0f - t * t);
    }
};
template <class Function> struct Gated {
    TESSERA_INLINE Floats operator()(Floats gate, Floats x) const { return Function{}(gate)*x; }
};
template <class Gradient> struct GateGradient {
    TESSERA_INLINE Floats operator()(Floats gate, Floats x, Floats dy) const { return Gradient{}(gate, dy * x); }
};
struct Sum {
    TESSERA_INLINE Floats operator()(Floats a, Floats b) const { return a + b; }
};
struct Product {
    TESSERA_INLINE Floats operator()(Floats a, Floats b) const { return a * b; }
};
struct Scaled {
    float factor;
    TESSERA_INLINE Floats operator()(Floats x) const { return x * factor; }
};

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

std::int64_t grain_of(Activation kind) { return kind == Activation::relu ? cheap_grain : function_grain; }

template <class Operation> void map_one(CpuStream& stream, std::string_view kernel, std::int64_t grain,
                                        const Operation& operation, ConstView x, View y) {
    check_count(kernel, "the result", y, x.count());
    with_float_type(kernel, x.dtype,
                    [&]<class T>() { map(stream, grain, operation, x.count(), y.as<T>(), x.as<T>()); });
}

template <class Operation> void map_two(CpuStream& stream, std::string_view kernel, std::int64_t grain,
                                        const Operation& operation, ConstView a, ConstView b, View y) {
    check_count(kernel, "the second input", b, a.count());
    check_count(kernel, "the result", y, a.count());
    with_float_type(kernel, a.dtype,
                    [&]<class T>() { map(stream, grain, operation, a.count(), y.as<T>(), a.as<T>(), b.as<T>()); });
}

// Elements [begin, end) of y = x + row repeated.
template <class T, class Row> TESSERA_MULTIVERSION void
add_rows_part(const T* x, const Row* row, std::int64_t row_count, std::int64_t begin, std::int64_t end, T* y) {
    std::int64_t column = begin % row_count;
    while (begin < end) {
        const std::int64_t piece = std::min(row_count - column, end - begin);
        std::int64_t i = 0;
        for (; i + simd::lanes <= piece; i += simd::lanes)
            simd::store(y + begin + i, simd::load(x + begin + i) + simd::load(row + column + i));
        if (const std::int64_t rest = piece - i; rest > 0)
            simd::store(y + begin + i, simd::load(x + begin + i, rest) + simd::load(row + column + i, rest), rest);
        begin += piece;
        column = 0;
    }
}

} // namespace

void activation(CpuStream& stream, Activation kind, ConstView x, View y) {
    with_activation(kind, [&](auto function, auto) { map_one(stream, name_of(kind), grain_of(kind), function, x, y); });
}

void activation_gradient(CpuStream& stream, Activation kind, ConstView x, ConstView dy, View dx) {
    with_activation(kind,
                    [&](auto, auto gradient) { map_two(stream, name_of(kind), grain_of(kind), gradient, x, dy, dx); });
}

void gate(CpuStream& stream, Activation kind, ConstView gate, ConstView x, View y) {
    with_activation(kind, [&](auto function, auto) {
        map_two(stream, "gate", grain_of(kind), Gated<decltype(function)>{}, gate, x, y);
    });
}

void gate_gradient(CpuStream& stream, Activation kind, ConstView gate, ConstView x, ConstView dy, View dgate, View dx) {
    check_count("gate_gradient", "x", x, gate.count());
    check_count("gate_gradient", "dy", dy, gate.count());
    check_count("gate_gradient", "dgate", dgate, gate.count());
    with_activation(kind, [&](auto function, auto gradient) {
        with_float_type("gate_gradient", gate.dtype, [&]<class T>() {
            map(stream, grain_of(kind), GateGradient<decltype(gradient)>{}, gate.count(), dgate.as<T>(), gate.as<T>(),
                x.as<T>(), dy.as<T>());
        });
        map_two(stream, "gate_gradient", grain_of(kind), Gated<decltype(function)>{}, gate, dy, dx);
    });
}

void add(CpuStream& stream, ConstView a, ConstView b, View y) { map_two(stream, "add", cheap_grain, Sum{}, a, b, y); }

void multiply(CpuStream& stream, ConstView a, ConstView b, View y) {
    map_two(stream, "multiply", cheap_grain, Product{}, a, b, y);
}

void scale(CpuStream& stream, ConstView x, float factor, View y) {
    map_one(stream, "scale", cheap_grain, Scaled{factor}, x, y);
}

void add_rows(CpuStream& stream, ConstView x, ConstView row, View y) {
    check_count("add_rows", "the result", y, x.count());
    check_rows("add_rows", x, row);
    const std::int64_t columns = row.count();
    with_float_type("add_rows", x.dtype, [&]<class T>() {
        with_float_type("add_rows", row.dtype, [&]<class Row>() {
            const auto work = [&](std::int64_t begin, std::int64_t end) {
                add_rows_part(x.as<T>(), row.as<Row>(), columns, begin, end, y.as<T>());
            };
            stream.parallel(x.count(), cheap_grain, std::ref(work));
        });
    });
}

} // namespace tessera::kernels
