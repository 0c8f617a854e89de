// SPDX-License-Identifier: Apache-2.0
// The only file that includes oneDNN. What is found here is kept in one map for the process, as compiling a primitive
// takes milliseconds: the same shape always gives the same call, so that nobody can tell whether it was there already.
#include "kernels/cpu/onednn.hpp"

#include "kernels/error.hpp"
#include "kernels/memory.hpp"

#include <array>
#include <cstring>
#include <fmt/format.h>
#include <functional>
#include <map>
#include <mutex>
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>

namespace tessera::kernels {
namespace {

using Desc = dnnl::memory::desc;
using Tag = dnnl::memory::format_tag;
using Type = dnnl::memory::data_type;

static_assert(DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP || DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_SEQ,
              "a oneDNN that does not take its threads from OpenMP: configure with -DTESSERA_ONEDNN=OFF");

// What oneDNN makes or runs on this thread meanwhile, it makes for and runs on this thread alone: it asks OpenMP how
// many there are. Within our own parallel regions that is one anyway.
class OneThread {
public:
    OneThread() : before_(omp_get_max_threads()) {
        if (before_ != 1) omp_set_num_threads(1);
    }
    ~OneThread() {
        if (before_ != 1) omp_set_num_threads(before_);
    }
    OneThread(const OneThread&) = delete;
    OneThread& operator=(const OneThread&) = delete;

private:
    int before_;
};

const dnnl::engine& engine() {
    static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
    return cpu;
}

std::int64_t bytes_of_desc(const Desc& desc) { return align_up(static_cast<std::int64_t>(desc.get_size())); }

// Memory of ours and of theirs, and what leads from one to the other where they differ.
struct Turn {
    Desc ours, theirs;
    dnnl::reorder into{}, out{};

    bool is_needed() const { return ours != theirs; }
    std::int64_t bytes() const { return is_needed() ? bytes_of_desc(theirs) : 0; }
};

} // namespace

struct OnednnCall::State {
    OnednnConvolution of;
    Turn x, w, y;
    Desc bias, scratchpad;
    std::string name;
    std::function<dnnl::primitive()> make;
    std::once_flag once;
    dnnl::primitive primitive;

    bool reads_x() const { return of.direction != ConvolutionDirection::input_gradient; }
    bool reads_y() const { return of.direction != ConvolutionDirection::forward; }
    bool reads_w() const { return of.direction != ConvolutionDirection::weight_gradient; }
};

namespace {

struct Descs {
    Desc x, w, y;
};

Descs descs_of(const OnednnConvolution& of) {
    const Convolution& s = of.shape;
    const Type type = of.dtype == DType::f32 ? Type::f32 : Type::bf16;
    const Type weights = of.direction == ConvolutionDirection::weight_gradient ? Type::f32 : type;
    const std::int64_t rows = s.window.height.size, columns = s.window.width.size;
    return {Desc({s.batch, s.channels, s.height, s.width}, type, Tag::nhwc),
            s.groups > 1 ? Desc({s.groups, s.group_filters(), s.group_channels(), rows, columns}, weights, Tag::gohwi)
                         : Desc({s.filters, s.channels, rows, columns}, weights, Tag::ohwi),
            Desc({s.batch, s.filters, s.out_height(), s.out_width()}, type, Tag::nhwc)};
}

Desc any_order(const Desc& desc, Type type) { return Desc(desc.dims(), type, Tag::any); }

// oneDNN's plain loops, and its windows gathered for a product, which are ours, too.
bool is_slow(const std::string& name) {
    return name.find("ref") != std::string::npos || name.find("gemm") != std::string::npos;
}

void take(OnednnCall::State& state, const Desc& x, const Desc& w, const Desc& y, const Desc& scratchpad,
          const char* name) {
    state.x.theirs = x, state.w.theirs = w, state.y.theirs = y;
    state.scratchpad = scratchpad;
    state.name = name;
}

// The forward pass is a hint to oneDNN where a gradient is wanted.
void describe(OnednnCall::State& state) {
    const Descs ours = descs_of(state.of);
    state.x.ours = ours.x, state.w.ours = ours.w, state.y.ours = ours.y;
    const Type type = ours.x.data_type();
    const Desc x = state.of.blocked ? any_order(ours.x, type) : ours.x;
    const Desc y = state.of.blocked ? any_order(ours.y, type) : ours.y;
    const Desc w = any_order(ours.w, type);
    const WindowDim &height = state.of.shape.window.height, &width = state.of.shape.window.width;
    const dnnl::memory::dims strides{height.stride, width.stride};
    const dnnl::memory::dims dilations{height.dilation - 1, width.dilation - 1};
    const dnnl::memory::dims before{height.before, width.before}, after{height.after, width.after};
    const auto direct = dnnl::algorithm::convolution_direct;
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    attributes.set_fpmath_mode(dnnl::fpmath_mode::strict); // whatever ONEDNN_DEFAULT_FPMATH_MODE says
    using Forward = dnnl::convolution_forward;
    const auto training = dnnl::prop_kind::forward_training;
    if (state.of.direction == ConvolutionDirection::forward) {
        state.bias = Desc({state.of.shape.filters}, Type::f32, Tag::a);
        const Forward::primitive_desc made(
            Forward::desc(training, direct, x, w, state.bias, y, strides, dilations, before, after), attributes,
            engine());
        take(state, made.src_desc(), made.weights_desc(), made.dst_desc(), made.scratchpad_desc(),
             made.impl_info_str());
        state.make = [made] { return Forward(made); };
        return;
    }
    const Forward::primitive_desc hint(Forward::desc(training, direct, x, w, y, strides, dilations, before, after),
                                       attributes, engine());
    if (state.of.direction == ConvolutionDirection::input_gradient) {
        using Gradient = dnnl::convolution_backward_data;
        const Gradient::primitive_desc made(Gradient::desc(direct, x, w, y, strides, dilations, before, after),
                                            attributes, engine(), hint);
        take(state, made.diff_src_desc(), made.weights_desc(), made.diff_dst_desc(), made.scratchpad_desc(),
             made.impl_info_str());
        state.make = [made] { return Gradient(made); };
        return;
    }
    using Gradient = dnnl::convolution_backward_weights;
    const Gradient::primitive_desc made(
        Gradient::desc(direct, x, any_order(ours.w, Type::f32), y, strides, dilations, before, after), attributes,
        engine(), hint);
    take(state, made.src_desc(), made.diff_weights_desc(), made.diff_dst_desc(), made.scratchpad_desc(),
         made.impl_info_str());
    state.make = [made] { return Gradient(made); };
}

// Any thread may run it, as it needs no memory of its own.
dnnl::reorder reorder_of(const Desc& from, const Desc& to) {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::reorder::primitive_desc made(engine(), from, engine(), to, attributes);
    if (made.scratchpad_desc().get_size() != 0) throw dnnl::error(dnnl_unimplemented, "a reorder that wants memory");
    return dnnl::reorder(made);
}

// Of what is not in our order.
void describe_turns(OnednnCall::State& made) {
    const auto turn = [](Turn& of, bool reads) {
        if (of.is_needed() && reads) of.into = reorder_of(of.ours, of.theirs);
        if (of.is_needed() && !reads) of.out = reorder_of(of.theirs, of.ours);
    };
    turn(made.x, made.reads_x());
    turn(made.w, made.reads_w());
    turn(made.y, made.reads_y());
}

dnnl::memory memory_of(const Desc& desc, const void* data) {
    return dnnl::memory(desc, engine(), const_cast<void*>(data));
}

void turn_into(const Turn& turn, const void* from, void* to) {
    dnnl::stream stream(engine());
    turn.into.execute(stream, {{DNNL_ARG_FROM, memory_of(turn.ours, from)}, {DNNL_ARG_TO, memory_of(turn.theirs, to)}});
}

void turn_out(const Turn& turn, const void* from, void* to) {
    dnnl::stream stream(engine());
    turn.out.execute(stream, {{DNNL_ARG_FROM, memory_of(turn.theirs, from)}, {DNNL_ARG_TO, memory_of(turn.ours, to)}});
}

std::unique_ptr<OnednnCall> make_call(const OnednnConvolution& wanted) {
    const OneThread alone;
    auto state = std::make_unique<OnednnCall::State>();
    state->of = wanted;
    try {
        describe(*state);
        describe_turns(*state);
    } catch (const dnnl::error&) { // it has none
        return nullptr;
    }
    if (is_slow(state->name)) return nullptr;
    return std::make_unique<OnednnCall>(std::move(state));
}

using Key = std::array<std::int64_t, 19>;

Key key_of(const OnednnConvolution& of) {
    const Convolution& s = of.shape;
    const WindowDim &h = s.window.height, &w = s.window.width;
    return {s.batch,
            s.height,
            s.width,
            s.channels,
            s.filters,
            s.groups,
            static_cast<int>(of.dtype),
            static_cast<int>(of.direction),
            of.blocked,
            h.size,
            h.stride,
            h.dilation,
            h.before,
            h.after,
            w.size,
            w.stride,
            w.dilation,
            w.before,
            w.after};
}

} // namespace

OnednnCall::OnednnCall(std::unique_ptr<State> state) : state_(std::move(state)) {}
OnednnCall::~OnednnCall() = default;

const OnednnCall* OnednnCall::find(const OnednnConvolution& wanted) {
    static std::mutex mutex;
    static std::map<Key, std::unique_ptr<OnednnCall>> calls;
    const std::lock_guard lock(mutex);
    const auto [place, is_new] = calls.try_emplace(key_of(wanted));
    if (is_new) place->second = make_call(wanted);
    return place->second.get();
}

const std::string& OnednnCall::name() const { return state_->name; }
std::int64_t OnednnCall::weights_bytes() const { return bytes_of_desc(state_->w.theirs); }
std::int64_t OnednnCall::scratch_bytes() const {
    return bytes_of_desc(state_->scratchpad) + state_->x.bytes() + state_->y.bytes();
}

bool OnednnCall::has_weights_of(const OnednnCall& other) const { return state_->w.theirs == other.state_->w.theirs; }

void OnednnCall::compile() const {
    const OneThread alone;
    try {
        std::call_once(state_->once, [&] { state_->primitive = state_->make(); });
    } catch (const dnnl::error& error) {
        throw SystemError(fmt::format("oneDNN cannot compile its {}: {}", state_->name, error.what()));
    }
}

void OnednnCall::pack_weights(const void* w, void* to) const {
    const OneThread alone;
    if (state_->w.is_needed()) return turn_into(state_->w, w, to);
    std::memcpy(to, w, state_->w.ours.get_size());
}

void OnednnCall::unpack_weights(const void* from, float* dw) const {
    const OneThread alone;
    if (state_->w.is_needed()) return turn_out(state_->w, from, dw);
    std::memcpy(dw, from, state_->w.ours.get_size());
}

void OnednnCall::run(void* x, void* weights, const float* bias, void* y, void* scratch) const {
    const OneThread alone;
    const State& state = *state_;
    auto* const scratchpad = static_cast<std::byte*>(scratch);
    std::byte* const turned_x = scratchpad + bytes_of_desc(state.scratchpad);
    std::byte* const turned_y = turned_x + state.x.bytes();
    void* const their_x = state.x.is_needed() ? turned_x : x;
    void* const their_y = state.y.is_needed() ? turned_y : y;
    if (state.x.is_needed() && state.reads_x()) turn_into(state.x, x, their_x);
    if (state.y.is_needed() && state.reads_y()) turn_into(state.y, y, their_y);
    std::unordered_map<int, dnnl::memory> arguments{
        {state.reads_x() ? DNNL_ARG_SRC : DNNL_ARG_DIFF_SRC, memory_of(state.x.theirs, their_x)},
        {state.reads_w() ? DNNL_ARG_WEIGHTS : DNNL_ARG_DIFF_WEIGHTS, memory_of(state.w.theirs, weights)},
        {state.reads_y() ? DNNL_ARG_DIFF_DST : DNNL_ARG_DST, memory_of(state.y.theirs, their_y)},
        {DNNL_ARG_SCRATCHPAD, memory_of(state.scratchpad, scratchpad)}};
    if (!state.reads_y()) arguments.emplace(DNNL_ARG_BIAS, memory_of(state.bias, bias));
    dnnl::stream stream(engine());
    state.primitive.execute(stream, arguments);
    if (state.x.is_needed() && !state.reads_x()) turn_out(state.x, their_x, x);
    if (state.y.is_needed() && !state.reads_y()) turn_out(state.y, their_y, y);
}

} // namespace tessera::kernels
