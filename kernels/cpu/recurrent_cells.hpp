// SPDX-License-Identifier: Apache-2.0
// The cells of LSTM and GRU and their gradients, for some units of all rows at one step. The product with the step
// before is in `sums` already; recurrent.cpp says in which order steps and units come.
#pragma once

#include "kernels/cpu/loops.hpp"
#include "kernels/cpu/vector_math.hpp"
#include "kernels/recurrent.hpp"

namespace tessera::kernels {

inline constexpr std::int64_t cell_units = 32; // at one time, a panel of the packed weight

// Units [first, first + count) of direction d at step t; `before` is the step before it, -1: none.
struct CellPlace {
    RecurrentSizes n;
    std::int64_t d, t, before, first, count;
    bool begins, ends; // the walk through the steps

    std::int64_t at(std::int64_t b, std::int64_t step) const { // in (B, T, D), before the dims of a step
        return (b * n.steps + step) * n.directions + d;
    }
    std::int64_t unit(std::int64_t b, std::int64_t step) const { return at(b, step) * n.hidden + first; }
    std::int64_t gate(std::int64_t b, std::int64_t gates, std::int64_t g) const {
        return (at(b, t) * gates + g) * n.hidden + first;
    }
    std::int64_t outside(std::int64_t b) const { return (b * n.directions + d) * n.hidden + first; } // (B, D, H)
    std::int64_t inside(std::int64_t b) const { return (d * n.rows + b) * n.hidden + first; }        // (D, B, H)
};

// As it is after a way through memory in T.
template <class T> TESSERA_INLINE simd::Floats rounded(simd::Floats value) {
    if constexpr (std::is_same_v<T, float>) return value;
    T part[simd::lanes];
    simd::store(part, value);
    return simd::load(part);
}

template <class T> struct LstmCells {
    const float* c0;
    T* y;
    T* gates;
    float* cells;
    float *last_h, *last_c;
};

// sums: (B, 4, cell_units)     h: (D, B, H), of this step
template <class T>
TESSERA_MULTIVERSION void lstm_cells(const CellPlace& place, const LstmCells<T>& a, const float* sums, float* h) {
    using simd::Floats;
    for (std::int64_t b = 0; b < place.n.rows; ++b) {
        const float* z = sums + b * 4 * cell_units;
        const float* c = place.before >= 0 ? a.cells + place.unit(b, place.before)
                         : a.c0 != nullptr ? a.c0 + place.outside(b)
                                           : nullptr;
        simd::for_columns(place.count, [&](std::int64_t u, auto width) TESSERA_INLINED {
            const Floats i = simd::sigmoid(simd::load(z + u, width));
            const Floats f = simd::sigmoid(simd::load(z + cell_units + u, width));
            const Floats g = simd::tanh(simd::load(z + 2 * cell_units + u, width));
            const Floats o = simd::sigmoid(simd::load(z + 3 * cell_units + u, width));
            Floats cell = i * g;
            if (c != nullptr) cell += f * simd::load(c + u, width);
            const Floats output = rounded<T>(o * simd::tanh(cell));
            simd::store(a.gates + place.gate(b, 4, 0) + u, i, width);
            simd::store(a.gates + place.gate(b, 4, 1) + u, f, width);
            simd::store(a.gates + place.gate(b, 4, 2) + u, g, width);
            simd::store(a.gates + place.gate(b, 4, 3) + u, o, width);
            simd::store(a.cells + place.unit(b, place.t) + u, cell, width);
            simd::store(a.y + place.unit(b, place.t) + u, output, width);
            simd::store(h + place.inside(b) + u, output, width);
            if (place.ends && a.last_h != nullptr) simd::store(a.last_h + place.outside(b) + u, output, width);
            if (place.ends && a.last_c != nullptr) simd::store(a.last_c + place.outside(b) + u, cell, width);
        });
    }
}

template <class T> struct LstmGradients {
    const T* gates;
    const float *cells, *c0;
    T* dx;
    float* dc; // (D, B, H), of the step after, and then of this one
};

// dh: (B, cell_units)     dq: (D, B, 4, H), of this step
template <class T> TESSERA_MULTIVERSION void lstm_cell_gradients(const CellPlace& place, const LstmGradients<T>& a,
                                                                 const float* dh, float* dq) {
    using simd::Floats;
    const std::int64_t hidden = place.n.hidden;
    for (std::int64_t b = 0; b < place.n.rows; ++b) {
        const float* c = place.before >= 0 ? a.cells + place.unit(b, place.before)
                         : a.c0 != nullptr ? a.c0 + place.outside(b)
                                           : nullptr;
        float* to = dq + place.inside(b) + (place.d * place.n.rows + b) * 3 * hidden;
        simd::for_columns(place.count, [&](std::int64_t u, auto width) TESSERA_INLINED {
            const Floats i = simd::load(a.gates + place.gate(b, 4, 0) + u, width);
            const Floats f = simd::load(a.gates + place.gate(b, 4, 1) + u, width);
            const Floats g = simd::load(a.gates + place.gate(b, 4, 2) + u, width);
            const Floats o = simd::load(a.gates + place.gate(b, 4, 3) + u, width);
            const Floats t = simd::tanh(simd::load(a.cells + place.unit(b, place.t) + u, width));
            const Floats slope = simd::load(dh + b * cell_units + u, width);
            Floats dc = slope * o * (1.0f - t * t);
            if (!place.begins) dc += simd::load(a.dc + place.inside(b) + u, width);
            const Floats before = c == nullptr ? Floats{} : simd::load(c + u, width);
            const auto give = [&](std::int64_t gate, Floats value) TESSERA_INLINED {
                value = rounded<T>(value);
                simd::store(a.dx + place.gate(b, 4, gate) + u, value, width);
                simd::store(to + gate * hidden + u, value, width);
            };
            give(0, dc * g * i * (1.0f - i));
            give(1, dc * before * f * (1.0f - f));
            give(2, dc * i * (1.0f - g * g));
            give(3, slope * t * o * (1.0f - o));
            simd::store(a.dc + place.inside(b) + u, dc * f, width);
        });
    }
}

template <class T> struct GruCells {
    const T* x;
    const float* h; // (D, B, H), of the step before
    T* y;
    T* gates;
    float* last_h;
};

// sums: (B, 3, cell_units)
template <class T>
TESSERA_MULTIVERSION void gru_cells(const CellPlace& place, const GruCells<T>& a, const float* sums, float* h) {
    using simd::Floats;
    for (std::int64_t b = 0; b < place.n.rows; ++b) {
        const float* s = sums + b * 3 * cell_units;
        simd::for_columns(place.count, [&](std::int64_t u, auto width) TESSERA_INLINED {
            const Floats r = simd::sigmoid(simd::load(s + u, width));
            const Floats z = simd::sigmoid(simd::load(s + cell_units + u, width));
            const Floats q = simd::load(s + 2 * cell_units + u, width);
            const Floats n = simd::tanh(simd::load(a.x + place.gate(b, 3, 2) + u, width) + r * q);
            const Floats before = simd::load(a.h + place.inside(b) + u, width);
            const Floats output = rounded<T>((1.0f - z) * n + z * before);
            simd::store(a.gates + place.gate(b, 4, 0) + u, r, width);
            simd::store(a.gates + place.gate(b, 4, 1) + u, z, width);
            simd::store(a.gates + place.gate(b, 4, 2) + u, n, width);
            simd::store(a.gates + place.gate(b, 4, 3) + u, q, width);
            simd::store(a.y + place.unit(b, place.t) + u, output, width);
            simd::store(h + place.inside(b) + u, output, width);
            if (place.ends && a.last_h != nullptr) simd::store(a.last_h + place.outside(b) + u, output, width);
        });
    }
}

template <class T> struct GruGradients {
    const T *gates, *y;
    const float* h0;
    T *dx, *dq;
    float* dh; // (D, B, H): what reaches the step before beside the product
};

// dh: (B, cell_units)     dq: (D, B, 3, H), of this step
template <class T> TESSERA_MULTIVERSION void gru_cell_gradients(const CellPlace& place, const GruGradients<T>& a,
                                                                const float* dh, float* dq) {
    using simd::Floats;
    const std::int64_t hidden = place.n.hidden;
    for (std::int64_t b = 0; b < place.n.rows; ++b) {
        float* to = dq + place.inside(b) + (place.d * place.n.rows + b) * 2 * hidden;
        simd::for_columns(place.count, [&](std::int64_t u, auto width) TESSERA_INLINED {
            const Floats r = simd::load(a.gates + place.gate(b, 4, 0) + u, width);
            const Floats z = simd::load(a.gates + place.gate(b, 4, 1) + u, width);
            const Floats n = simd::load(a.gates + place.gate(b, 4, 2) + u, width);
            const Floats q = simd::load(a.gates + place.gate(b, 4, 3) + u, width);
            Floats before{};
            if (place.before >= 0)
                before = simd::load(a.y + place.unit(b, place.before) + u, width);
            else if (a.h0 != nullptr)
                before = rounded<T>(simd::load(a.h0 + place.outside(b) + u, width));
            Floats slope = simd::load(dh + b * cell_units + u, width);
            if (!place.begins) slope += simd::load(a.dh + place.inside(b) + u, width);
            const Floats dn = slope * (1.0f - z) * (1.0f - n * n);
            const auto give = [&](std::int64_t gate, Floats of_x, Floats of_q) TESSERA_INLINED {
                of_q = rounded<T>(of_q);
                simd::store(a.dx + place.gate(b, 3, gate) + u, of_x, width);
                simd::store(a.dq + place.gate(b, 3, gate) + u, of_q, width);
                simd::store(to + gate * hidden + u, of_q, width);
            };
            const Floats dr = dn * q * r * (1.0f - r), dz = slope * (before - n) * z * (1.0f - z);
            give(0, dr, dr);
            give(1, dz, dz);
            give(2, dn, dn * r);
            simd::store(a.dh + place.inside(b) + u, slope * z, width);
        });
    }
}

} // namespace tessera::kernels
