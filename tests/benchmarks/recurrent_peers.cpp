// SPDX-License-Identifier: Apache-2.0
// Our LSTM and GRU beside oneDNN's, forward for training and backward, with the products of inputs and weights that go
// with them, interleaved in one run: `bench_recurrent_peers [THREADS]`. oneDNN is called on one thread, and on several
// on slices of the rows, so that no bit depends on their number; its reorders of weights count.
#include "kernels/matmul.hpp"
#include "kernels/memory.hpp"
#include "kernels/recurrent.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <functional>
#include <memory>
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

using namespace tessera;

namespace {

using Desc = dnnl::memory::desc;
using Tag = dnnl::memory::format_tag;
using Type = dnnl::memory::data_type;

struct Sizes {
    const char* name;
    std::int64_t rows, steps, inputs, hidden;
};

double seconds_of(const std::function<void()>& run) {
    run();
    const auto begin = std::chrono::steady_clock::now();
    run();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
    return values[values.size() / 2];
}

class OneThread {
public:
    OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
    ~OneThread() { omp_set_num_threads(before_); }
    OneThread(const OneThread&) = delete;
    OneThread& operator=(const OneThread&) = delete;

private:
    int before_;
};

class Values {
public:
    Values(std::int64_t count, DType dtype) : count_(count), dtype_(dtype), memory_(count * bytes_of(dtype)) {
        for (std::int64_t i = 0; i < count; ++i) {
            const float value = static_cast<float>(i * 7 % 251 - 125) / 4096;
            if (dtype == DType::f32)
                reinterpret_cast<float*>(memory_.data())[i] = value;
            else
                reinterpret_cast<BFloat16*>(memory_.data())[i] = BFloat16(value);
        }
    }
    View view() const { return View(memory_.data(), {count_}, dtype_); }
    std::byte* data() const { return memory_.data(); }

private:
    std::int64_t count_;
    DType dtype_;
    Buffer memory_;
};

// x W_in^T for all steps, the cells, and of the gradient dx, dW_in and dW.
class Ours {
public:
    Ours(CpuStream& stream, const Sizes& of, DType dtype, std::int64_t gates)
        : stream_(stream), n_{of.rows, of.steps, 1, of.hidden}, gates_(gates), inputs_(of.inputs), dtype_(dtype),
          x(all() * of.inputs, dtype), w_in(gates * of.hidden * of.inputs, dtype),
          w(gates * of.hidden * of.hidden, dtype), bias(gates * of.hidden, DType::f32),
          z(all() * gates * of.hidden, dtype), y(all() * of.hidden, dtype), kept(all() * 4 * of.hidden, dtype),
          cells(all() * of.hidden, DType::f32), dy(all() * of.hidden, dtype), dz(all() * gates * of.hidden, dtype),
          dq(all() * gates * of.hidden, dtype), dx(all() * of.inputs, dtype),
          dw_in(gates * of.hidden * of.inputs, DType::f32), dw(gates * of.hidden * of.hidden, DType::f32) {
        std::int64_t bytes = kernels::recurrent_workspace_bytes(stream, n_, gates, dtype);
        for (const Matmul& product : {into(), input_gradient(), weight_gradient(inputs_), weight_gradient(n_.hidden)})
            bytes = std::max(bytes, kernels::matmul_workspace_bytes(stream, product));
        memory_ = Buffer(bytes);
    }

    void forward() {
        const View memory = workspace();
        kernels::matmul(stream_, into(), x.view(), w_in.view(), {}, z.view(), memory);
        if (gates_ == 4)
            kernels::lstm(stream_, n_, z.view(), w.view(), bias.view(), {}, y.view(), kept.view(), cells.view(),
                          memory);
        else
            kernels::gru(stream_, n_, z.view(), w.view(), bias.view(), {}, y.view(), kept.view(), {}, memory);
    }

    void backward() {
        const View memory = workspace();
        if (gates_ == 4)
            kernels::lstm_gradient(stream_, n_, w.view(), kept.view(), cells.view(), {}, dy.view(), dz.view(), memory);
        else
            kernels::gru_gradient(stream_, n_, w.view(), kept.view(), y.view(), {}, dy.view(), dz.view(), dq.view(),
                                  memory);
        kernels::matmul(stream_, input_gradient(), dz.view(), w_in.view(), {}, dx.view(), memory);
        kernels::matmul(stream_, weight_gradient(inputs_), dz.view(), x.view(), {}, dw_in.view(), memory);
        kernels::matmul(stream_, weight_gradient(n_.hidden), (gates_ == 4 ? dz : dq).view(), y.view(), {}, dw.view(),
                        memory);
    }

private:
    std::int64_t all() const { return n_.rows * n_.steps; }
    View workspace() const { return View(memory_.data(), {memory_.bytes() / 4}, DType::f32); }
    Matmul into() const {
        return {
            .m = all(), .n = gates_ * n_.hidden, .k = inputs_, .transpose_b = true, .input = dtype_, .output = dtype_};
    }
    Matmul input_gradient() const {
        return {.m = all(), .n = inputs_, .k = gates_ * n_.hidden, .input = dtype_, .output = dtype_};
    }
    Matmul weight_gradient(std::int64_t columns) const {
        return {.m = gates_ * n_.hidden,
                .n = columns,
                .k = all(),
                .transpose_a = true,
                .input = dtype_,
                .output = DType::f32};
    }

    CpuStream& stream_;
    RecurrentSizes n_;
    std::int64_t gates_, inputs_;
    DType dtype_;

public:
    Values x, w_in, w, bias, z, y, kept, cells, dy, dz, dq, dx, dw_in, dw;

private:
    Buffer memory_{64};
};

// Memory for a desc, of our own.
class Place {
public:
    Place() = default;
    Place(const Desc& desc, const dnnl::engine& engine)
        : memory_(std::max<std::int64_t>(64, static_cast<std::int64_t>(desc.get_size()))),
          theirs(desc, engine, memory_.data()) {}

private:
    Buffer memory_{64};

public:
    dnnl::memory theirs;
};

struct Lstm {
    using Forward = dnnl::lstm_forward;
    using Backward = dnnl::lstm_backward;
    static constexpr std::int64_t gates = 4, bias_gates = 4;
};
struct Gru {
    using Forward = dnnl::lbr_gru_forward;
    using Backward = dnnl::lbr_gru_backward;
    static constexpr std::int64_t gates = 3, bias_gates = 4;
};

// A slice of the rows, forward and backward, on one thread.
template <class Kind> class Slice {
public:
    Slice(const Sizes& of, std::int64_t rows, DType dtype) {
        const OneThread alone;
        const Type type = dtype == DType::f32 ? Type::f32 : Type::bf16;
        const Desc x({of.steps, rows, of.inputs}, type, Tag::tnc), y({of.steps, rows, of.hidden}, type, Tag::tnc);
        const Desc w_in({1, 1, of.inputs, Kind::gates, of.hidden}, type, Tag::any);
        const Desc w({1, 1, of.hidden, Kind::gates, of.hidden}, type, Tag::any);
        const Desc dw_in(w_in.dims(), Type::f32, Tag::any), dw(w.dims(), Type::f32, Tag::any);
        const Desc bias({1, 1, Kind::bias_gates, of.hidden}, Type::f32, Tag::ldgo);
        const Desc h, c; // none
        dnnl::primitive_attr attributes;
        attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
        const auto training = dnnl::prop_kind::forward_training;
        const auto direction = dnnl::rnn_direction::unidirectional_left2right;
        const auto forward_desc = [&] {
            if constexpr (Kind::gates == 4)
                return typename Kind::Forward::desc(training, direction, x, h, c, w_in, w, bias, y, h, c);
            else
                return typename Kind::Forward::desc(training, direction, x, h, w_in, w, bias, y, h);
        };
        const auto backward_desc = [&] {
            const auto back = dnnl::prop_kind::backward;
            if constexpr (Kind::gates == 4)
                return typename Kind::Backward::desc(back, direction, x, h, c, w_in, w, bias, y, h, c, x, h, c, dw_in,
                                                     dw, bias, y, h, c);
            else
                return typename Kind::Backward::desc(back, direction, x, h, w_in, w, bias, y, h, x, h, dw_in, dw, bias,
                                                     y, h);
        };
        const typename Kind::Forward::primitive_desc forward(forward_desc(), attributes, engine_);
        const typename Kind::Backward::primitive_desc backward(backward_desc(), attributes, engine_, forward);
        forward_ = typename Kind::Forward(forward);
        backward_ = typename Kind::Backward(backward);
        name = forward.impl_info_str();
        x_ = {x, engine_}, y_ = {y, engine_}, dx_ = {x, engine_}, dy_ = {y, engine_};
        bias_ = {bias, engine_}, dbias_ = {bias, engine_};
        kept_ = {forward.workspace_desc(), engine_};
        scratch_ = {forward.scratchpad_desc(), engine_}, back_scratch_ = {backward.scratchpad_desc(), engine_};
        // Ours are (gate, unit, input): ldgoi, as dims (input, gate, unit).
        const Desc our_w_in(w_in.dims(), type, Tag::ldgoi), our_w(w.dims(), type, Tag::ldgoi);
        const Desc our_dw_in(w_in.dims(), Type::f32, Tag::ldgoi), our_dw(w.dims(), Type::f32, Tag::ldgoi);
        add(before_, our_w_in, forward.weights_layer_desc(), w_in_);
        add(before_, our_w, forward.weights_iter_desc(), w_);
        add(back_before_, our_w_in, backward.weights_layer_desc(), back_w_in_);
        add(back_before_, our_w, backward.weights_iter_desc(), back_w_);
        dw_in_ = {backward.diff_weights_layer_desc(), engine_}, dw_ = {backward.diff_weights_iter_desc(), engine_};
        add_out(dw_in_, our_dw_in), add_out(dw_, our_dw);
    }

    void forward() {
        const OneThread alone;
        for (Step& step : before_)
            step.reorder.execute(stream_, step.from.theirs, step.to);
        forward_.execute(stream_, {{DNNL_ARG_SRC_LAYER, x_.theirs},
                                   {DNNL_ARG_WEIGHTS_LAYER, w_in_.theirs},
                                   {DNNL_ARG_WEIGHTS_ITER, w_.theirs},
                                   {DNNL_ARG_BIAS, bias_.theirs},
                                   {DNNL_ARG_DST_LAYER, y_.theirs},
                                   {DNNL_ARG_WORKSPACE, kept_.theirs},
                                   {DNNL_ARG_SCRATCHPAD, scratch_.theirs}});
    }

    void backward() {
        const OneThread alone;
        for (Step& step : back_before_)
            step.reorder.execute(stream_, step.from.theirs, step.to);
        backward_.execute(stream_, {{DNNL_ARG_SRC_LAYER, x_.theirs},
                                    {DNNL_ARG_WEIGHTS_LAYER, back_w_in_.theirs},
                                    {DNNL_ARG_WEIGHTS_ITER, back_w_.theirs},
                                    {DNNL_ARG_BIAS, bias_.theirs},
                                    {DNNL_ARG_DST_LAYER, y_.theirs},
                                    {DNNL_ARG_WORKSPACE, kept_.theirs},
                                    {DNNL_ARG_DIFF_SRC_LAYER, dx_.theirs},
                                    {DNNL_ARG_DIFF_WEIGHTS_LAYER, dw_in_.theirs},
                                    {DNNL_ARG_DIFF_WEIGHTS_ITER, dw_.theirs},
                                    {DNNL_ARG_DIFF_BIAS, dbias_.theirs},
                                    {DNNL_ARG_DIFF_DST_LAYER, dy_.theirs},
                                    {DNNL_ARG_SCRATCHPAD, back_scratch_.theirs}});
        for (Step& step : after_)
            step.reorder.execute(stream_, step.to, step.from.theirs);
    }

    std::string name;

private:
    struct Step {
        dnnl::reorder reorder;
        Place from;
        dnnl::memory to;
    };

    void add(std::vector<Step>& steps, const Desc& ours, const Desc& theirs, Place& place) {
        place = {theirs, engine_};
        Step step{{}, {ours, engine_}, place.theirs};
        step.reorder = dnnl::reorder(step.from.theirs, step.to);
        steps.push_back(std::move(step));
    }
    void add_out(Place& place, const Desc& ours) {
        Step step{{}, {ours, engine_}, place.theirs};
        step.reorder = dnnl::reorder(step.to, step.from.theirs);
        after_.push_back(std::move(step));
    }

    dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream_{engine_};
    typename Kind::Forward forward_;
    typename Kind::Backward backward_;
    Place x_, y_, dx_, dy_, bias_, dbias_, kept_, scratch_, back_scratch_, w_in_, w_, back_w_in_, back_w_, dw_in_, dw_;
    std::vector<Step> before_, back_before_, after_;
};

template <class Kind> void compare(CpuStream& stream, const Sizes& of, DType dtype) {
    Ours ours(stream, of, dtype, Kind::gates);
    std::vector<std::unique_ptr<Slice<Kind>>> slices;
    try {
        for (int i = 0; i < stream.threads(); ++i)
            slices.push_back(std::make_unique<Slice<Kind>>(of, of.rows / stream.threads(), dtype));
    } catch (const dnnl::error& error) {
        fmt::print("{}: oneDNN has none: {}\n", of.name, error.what());
        return;
    }
    const auto for_slices = [&](auto what) {
        stream.parallel(static_cast<std::int64_t>(slices.size()), 1, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i)
                what(*slices[static_cast<std::size_t>(i)]);
        });
    };
    const std::function<void()> runs[2][2] = {
        {[&] { ours.forward(); }, [&] { for_slices([](Slice<Kind>& slice) { slice.forward(); }); }},
        {[&] { ours.backward(); }, [&] { for_slices([](Slice<Kind>& slice) { slice.backward(); }); }}};
    for (const auto& [mine, theirs] : runs) {
        std::vector<double> our_times, their_times, ratios;
        const auto rounds = static_cast<int>(std::clamp(0.5 / seconds_of(mine), 5.0, 40.0));
        seconds_of(theirs);
        for (int round = 0; round < rounds; ++round) {
            our_times.push_back(seconds_of(mine));
            their_times.push_back(seconds_of(theirs));
            ratios.push_back(our_times.back() / their_times.back());
        }
        fmt::print(
            "{:<14} {:<4} {:>3} rows {:>3} steps {:>4} in {:>4} hidden {:<4} {:<8} {:>8.3f} {:>8.3f} {:>5.2f} {}\n",
            of.name, Kind::gates == 4 ? "lstm" : "gru", of.rows, of.steps, of.inputs, of.hidden, name_of(dtype),
            &mine == &runs[0][0] ? "forward" : "backward", 1e3 * median(our_times), 1e3 * median(their_times),
            median(ratios), slices.front()->name);
        std::fflush(stdout);
    }
}

} // namespace

int main(int argc, char** argv) {
    CpuStream stream(argc > 1 ? std::atoi(argv[1]) : 1);
    fmt::print("{}; ms, ours / oneDNN's\n", stream.text());
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const Sizes& each : {Sizes{"lstm_words", 16, 35, 256, 1024}, Sizes{"gru_characters", 16, 64, 64, 128},
                                  Sizes{"medium", 32, 32, 512, 512}}) {
            compare<Lstm>(stream, each, dtype);
            compare<Gru>(stream, each, dtype);
        }
    return 0;
}
