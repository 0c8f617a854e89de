// SPDX-License-Identifier: Apache-2.0
// LSTM and GRU on the CPU. The weight is packed once for all steps, in panels of 32 units, a gate's beside the next; a
// thread takes such units of a step from the product with the step before to the cell, while their sums are near. So a
// step is one round of the threads, and a sum one chain along k, whoever takes it.
#include "kernels/recurrent.hpp"

#include "kernels/cpu/matmul_block.hpp"
#include "kernels/cpu/recurrent_cells.hpp"
#include "kernels/memory.hpp"
#include "kernels/recurrent_check.hpp"

namespace tessera::kernels {
namespace {

static_assert(cell_units == panel_columns);

constexpr std::int64_t cached_words = 512;             // along k: a panel of so many stays near while the rows pass by
constexpr std::int64_t operations_of_thread = 1 << 19; // that a thread is worth waking for

enum class Walk { forward, backward }; // through the steps

// Where things lie in the workspace, and how a step is cut.
class Steps {
public:
    Steps(const RecurrentSizes& sizes, std::int64_t gates, Walk walk, const View& workspace)
        : n_(sizes), gates_(gates), walk_(walk), blocks_((sizes.hidden + cell_units - 1) / cell_units),
          words_(walk == Walk::forward ? sizes.hidden : gates * sizes.hidden),
          sums_(walk == Walk::forward ? gates * cell_units : cell_units) {
        auto* memory = static_cast<std::byte*>(workspace.memory());
        const auto take = [&](std::int64_t floats) {
            float* at = memory == nullptr ? nullptr : reinterpret_cast<float*>(memory + bytes_);
            bytes_ += align_up(floats * 4);
            return at;
        };
        panels_ = take(n_.directions * blocks_ * gates_ * cell_units * n_.hidden);
        sums_of_blocks_ = take(n_.directions * blocks_ * n_.rows * sums_);
        for (float*& side : sides_)
            side = take(n_.directions * n_.rows * words_);
        beside_ = take(n_.state());
    }
    std::int64_t bytes() const { return bytes_; }
    float* beside() const { return beside_; }                         // (D, B, H): what goes from step to step in place
    float* side(std::int64_t step) const { return sides_[step % 2]; } // (D, B, words): what the product is of

    void pack(CpuStream& stream, const ConstView& w) const {
        const bool forward = walk_ == Walk::forward;
        const std::int64_t panels = forward ? blocks_ * gates_ : blocks_, rows = gates_ * n_.hidden;
        stream.parallel(n_.directions * panels, 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) {
                const std::int64_t panel = i % panels, unit = (forward ? panel / gates_ : panel) * cell_units;
                const auto* data =
                    static_cast<const std::byte*>(w.data) + i / panels * rows * n_.hidden * bytes_of(w.dtype);
                const MatmulOperand operand{data, forward ? rows : n_.hidden, words_, !forward, w.dtype, false};
                pack_panel(operand, unit + (forward ? panel % gates_ * n_.hidden : 0),
                           std::min(cell_units, n_.hidden - unit), cell_units, 0, words_,
                           panels_ + i * cell_units * words_);
            }
        });
    }

    // Takes each step, in order: start(place, sums), then sums += side of the step taken before (`from_outside`: of
    // the first, too) times the weight, then cells(place, sums, number of the step taken).
    template <class Start, class Cells>
    void run(CpuStream& stream, bool from_outside, const Start& start, const Cells& cells) const {
        const std::int64_t operations = std::max<std::int64_t>(1, 2 * n_.rows * words_ * sums_);
        const std::int64_t grain = (operations_of_thread + operations - 1) / operations;
        for (std::int64_t taken = 0; taken < n_.steps; ++taken)
            stream.parallel(n_.directions * blocks_, grain, [&](std::int64_t begin, std::int64_t end) {
                for (std::int64_t i = begin; i < end; ++i) {
                    const CellPlace place = place_of(i, taken);
                    float* sums = sums_of_blocks_ + i * n_.rows * sums_;
                    start(place, sums);
                    if (taken > 0 || from_outside) multiply(place, i, taken, sums);
                    cells(place, static_cast<const float*>(sums), taken);
                }
            });
    }

private:
    CellPlace place_of(std::int64_t block, std::int64_t taken) const {
        const std::int64_t d = block / blocks_, first = block % blocks_ * cell_units;
        const std::int64_t step = walk_ == Walk::forward ? taken : n_.steps - 1 - taken; // of the direction
        const std::int64_t t = d == 0 ? step : n_.steps - 1 - step;
        const std::int64_t before = step == 0 ? -1 : d == 0 ? t - 1 : t + 1;
        return {n_, d, t, before, first, std::min(cell_units, n_.hidden - first), taken == 0, taken + 1 == n_.steps};
    }

    void multiply(const CellPlace& place, std::int64_t i, std::int64_t taken, float* sums) const {
        MatmulBlock block{};
        block.a_stride = words_;
        block.a_order = TileOrder::rows;
        block.b_panel_stride = cell_units * words_;
        block.rows = n_.rows;
        block.columns = sums_;
        block.read_c = true;
        block.c = sums;
        block.c_stride = sums_;
        block.output = DType::f32;
        const float* a = side(taken + 1) + place.d * n_.rows * words_;
        const float* b = panels_ + i * sums_ * words_;
        for (std::int64_t word = 0; word < words_; word += cached_words) {
            block.words = std::min(cached_words, words_ - word);
            block.a = a + word;
            block.b = b + word * cell_units;
            multiply_block_f32(block);
        }
    }

    RecurrentSizes n_;
    std::int64_t gates_;
    Walk walk_;
    std::int64_t blocks_, words_, sums_;
    std::int64_t bytes_ = 0;
    float *panels_, *sums_of_blocks_, *beside_;
    float* sides_[2];
};

// sums[b][g] = x[b,t,d,g] + bias[d,g]; without x for gates from `gates_of_x` on.
template <class T> TESSERA_MULTIVERSION void start_gates(const CellPlace& place, std::int64_t gates,
                                                         std::int64_t gates_of_x, const T* x, const float* bias,
                                                         float* sums) {
    for (std::int64_t b = 0; b < place.n.rows; ++b)
        for (std::int64_t g = 0; g < gates; ++g)
            simd::for_columns(place.count, [&](std::int64_t u, auto width) TESSERA_INLINED {
                simd::Floats sum{};
                if (g < gates_of_x) sum = simd::load(x + place.gate(b, gates, g) + u, width);
                if (bias != nullptr)
                    sum += simd::load(bias + (place.d * gates + g) * place.n.hidden + place.first + u, width);
                simd::store(sums + (b * gates + g) * cell_units + u, sum, width);
            });
}

// sums[b] = dy[b,t,d]
template <class T> TESSERA_MULTIVERSION void start_slopes(const CellPlace& place, const T* dy, float* sums) {
    for (std::int64_t b = 0; b < place.n.rows; ++b)
        simd::for_columns(place.count, [&](std::int64_t u, auto width) TESSERA_INLINED {
            simd::store(sums + b * cell_units + u, simd::load(dy + place.unit(b, place.t) + u, width), width);
        });
}

// h (D, B, H) = h0 (B, D, H), rounded to T; without it 0.
template <class T> void start_state(const RecurrentSizes& n, const ConstView& h0, float* h) {
    for (std::int64_t d = 0; d < n.directions; ++d)
        for (std::int64_t b = 0; b < n.rows; ++b)
            for (std::int64_t u = 0; u < n.hidden; ++u)
                h[(d * n.rows + b) * n.hidden + u] =
                    h0 ? static_cast<float>(T(h0.as<float>()[(b * n.directions + d) * n.hidden + u])) : 0.0f;
}

const float* floats_or_null(const ConstView& view) { return view ? view.as<float>() : nullptr; }
float* floats_or_null(const View& view) { return view ? view.as<float>() : nullptr; }

} // namespace

std::int64_t recurrent_workspace_bytes(const CpuStream&, const RecurrentSizes& sizes, std::int64_t gates, DType) {
    return std::max(Steps(sizes, gates, Walk::forward, {}).bytes(), Steps(sizes, gates, Walk::backward, {}).bytes());
}

void lstm(CpuStream& stream, const RecurrentSizes& n, ConstView x, ConstView w, ConstView bias, const LstmState& state,
          View y, View gates, View cells, View workspace) {
    const RecurrentCounts counts(n, 4);
    const Steps steps(n, 4, Walk::forward, workspace);
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
                    workspace, steps.bytes());
    with_float_type("lstm", x.dtype, [&]<class T>() {
        steps.pack(stream, w);
        if (state.h0) start_state<T>(n, state.h0, steps.side(1));
        const LstmCells<T> to{
            floats_or_null(state.c0),    y.as<T>(), gates.as<T>(), cells.as<float>(), floats_or_null(state.last_h),
            floats_or_null(state.last_c)};
        steps.run(
            stream, static_cast<bool>(state.h0),
            [&](const CellPlace& place, float* sums) {
                start_gates(place, 4, 4, x.as<T>(), floats_or_null(bias), sums);
            },
            [&](const CellPlace& place, const float* sums, std::int64_t taken) {
                lstm_cells(place, to, sums, steps.side(taken));
            });
    });
}

void lstm_gradient(CpuStream& stream, const RecurrentSizes& n, ConstView w, ConstView gates, ConstView cells,
                   ConstView c0, ConstView dy, View dx, View workspace) {
    const RecurrentCounts counts(n, 4);
    const Steps steps(n, 4, Walk::backward, workspace);
    check_recurrent("lstm_gradient", dy.dtype,
                    {{"w", w, counts.w},
                     {"gates", gates, counts.gates},
                     {"cells", cells, counts.y, true},
                     {"c0", c0, counts.state, true, true},
                     {"dy", dy, counts.y},
                     {"dx", dx, counts.x}},
                    workspace, steps.bytes());
    with_float_type("lstm_gradient", dy.dtype, [&]<class T>() {
        steps.pack(stream, w);
        const LstmGradients<T> to{gates.as<T>(), cells.as<float>(), floats_or_null(c0), dx.as<T>(), steps.beside()};
        steps.run(
            stream, false, [&](const CellPlace& place, float* sums) { start_slopes(place, dy.as<T>(), sums); },
            [&](const CellPlace& place, const float* sums, std::int64_t taken) {
                lstm_cell_gradients(place, to, sums, steps.side(taken));
            });
    });
}

void gru(CpuStream& stream, const RecurrentSizes& n, ConstView x, ConstView w, ConstView bias, ConstView h0, View y,
         View gates, View last_h, View workspace) {
    const RecurrentCounts counts(n, 3);
    const Steps steps(n, 3, Walk::forward, workspace);
    check_recurrent("gru", x.dtype,
                    {{"x", x, counts.x},
                     {"w", w, counts.w},
                     {"bias", bias, counts.bias, true, true},
                     {"h0", h0, counts.state, true, true},
                     {"last h", last_h, counts.state, true, true},
                     {"y", y, counts.y},
                     {"gates", gates, counts.gates}},
                    workspace, steps.bytes());
    with_float_type("gru", x.dtype, [&]<class T>() {
        steps.pack(stream, w);
        start_state<T>(n, h0, steps.side(1));
        steps.run(
            stream, static_cast<bool>(h0),
            [&](const CellPlace& place, float* sums) {
                start_gates(place, 3, 2, x.as<T>(), floats_or_null(bias), sums);
            },
            [&](const CellPlace& place, const float* sums, std::int64_t taken) {
                const GruCells<T> to{x.as<T>(), steps.side(taken + 1), y.as<T>(), gates.as<T>(),
                                     floats_or_null(last_h)};
                gru_cells(place, to, sums, steps.side(taken));
            });
    });
}

void gru_gradient(CpuStream& stream, const RecurrentSizes& n, ConstView w, ConstView gates, ConstView y, ConstView h0,
                  ConstView dy, View dx, View dq, View workspace) {
    const RecurrentCounts counts(n, 3);
    const Steps steps(n, 3, Walk::backward, workspace);
    check_recurrent("gru_gradient", dy.dtype,
                    {{"w", w, counts.w},
                     {"gates", gates, counts.gates},
                     {"y", y, counts.y},
                     {"h0", h0, counts.state, true, true},
                     {"dy", dy, counts.y},
                     {"dx", dx, counts.x},
                     {"dq", dq, counts.x}},
                    workspace, steps.bytes());
    with_float_type("gru_gradient", dy.dtype, [&]<class T>() {
        steps.pack(stream, w);
        const GruGradients<T> to{gates.as<T>(), y.as<T>(), floats_or_null(h0), dx.as<T>(), dq.as<T>(), steps.beside()};
        steps.run(
            stream, false, [&](const CellPlace& place, float* sums) { start_slopes(place, dy.as<T>(), sums); },
            [&](const CellPlace& place, const float* sums, std::int64_t taken) {
                gru_cell_gradients(place, to, sums, steps.side(taken));
            });
    });
}

} // namespace tessera::kernels
