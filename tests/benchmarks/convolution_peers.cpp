// SPDX-License-Identifier: Apache-2.0
// Our convolutions beside oneDNN's, shape by shape and pass by pass, interleaved in one run:
// `bench_convolution_peers [THREADS [PART_OF_NAME [BATCH [all]]]]`, names as in "resnet50 f32 weight grad". oneDNN is
// called so that no bit depends on the number of threads: each call on one thread, of `images` images, cut by the shape
// alone; reorders of weights, and of images where blocked formats are taken, count. Its quickest way is shown, or all.
#include "kernels/convolution.hpp"
#include "kernels/cpu/convolution_onednn.hpp"
#include "kernels/memory.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <functional>
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

using namespace tessera;

namespace {

using Desc = dnnl::memory::desc;
using Tag = dnnl::memory::format_tag;
using Type = dnnl::memory::data_type;

using Direction = kernels::ConvolutionDirection;

constexpr const char* direction_names[] = {"forward", "input grad", "weight grad"};

struct Named {
    const char* model;
    std::int64_t size, channels, filters, taps, stride, groups, dilation;
};

Convolution convolution_of(const Named& of, std::int64_t batch) {
    const std::int64_t pad = of.taps / 2 * of.dilation;
    const WindowDim dim{of.taps, of.stride, of.dilation, pad, pad};
    return {batch, of.size, of.size, of.channels, of.filters, of.groups, {dim, dim}};
}

// The second of two calls, so that none finds the caches as another way left them.
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

// What oneDNN does on this thread, it does alone.
class OneThread {
public:
    OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
    ~OneThread() { omp_set_num_threads(before_); }
    OneThread(const OneThread&) = delete;
    OneThread& operator=(const OneThread&) = delete;

private:
    int before_;
};

// Pages never written are all one page of zeros, and reading that under many addresses is slow.
void fill(const Buffer& buffer, std::int64_t count, DType dtype) {
    for (std::int64_t i = 0; i < count; ++i) {
        const float value = static_cast<float>(i % 251 - 125) / 128;
        if (dtype == DType::f32)
            static_cast<float*>(static_cast<void*>(buffer.data()))[i] = value;
        else
            static_cast<BFloat16*>(static_cast<void*>(buffer.data()))[i] = BFloat16(value);
    }
}

Type type_of(DType dtype) { return dtype == DType::f32 ? Type::f32 : Type::bf16; }

// The operands of a convolution and its gradients, and ours.
struct Operands {
    Convolution shape;
    DType dtype;
    std::int64_t x_count, y_count, w_count;
    Buffer x, w, y, dw;

    Operands(const Convolution& given, DType type)
        : shape(given), dtype(type), x_count(given.batch * given.height * given.width * given.channels),
          y_count(given.pixels() * given.filters), w_count(given.filters * given.taps()), x(x_count * bytes_of(type)),
          w(w_count * bytes_of(type)), y(y_count * bytes_of(type)), dw(w_count * 4) {
        fill(x, x_count, type), fill(w, w_count, type), fill(y, y_count, type);
    }
};

std::int64_t workspace_bytes(const CpuStream& stream, const Operands& of, Direction direction) {
    if (direction == Direction::forward) return kernels::convolution_workspace_bytes(stream, of.shape, of.dtype);
    if (direction == Direction::input_gradient)
        return kernels::convolution_input_gradient_workspace_bytes(stream, of.shape, of.dtype);
    return kernels::convolution_weight_gradient_workspace_bytes(stream, of.shape, of.dtype);
}

void ours(CpuStream& stream, const Operands& of, Direction direction, const Buffer& workspace) {
    const View x(of.x.data(), {of.x_count}, of.dtype), w(of.w.data(), {of.w_count}, of.dtype);
    const View y(of.y.data(), {of.y_count}, of.dtype), dw(of.dw.data(), {of.w_count}, DType::f32);
    const View memory(workspace.data(), {workspace.bytes() / 4}, DType::f32);
    if (direction == Direction::forward)
        kernels::convolution(stream, of.shape, x, w, {}, y, memory);
    else if (direction == Direction::input_gradient)
        kernels::convolution_input_gradient(stream, of.shape, y, w, x, memory);
    else
        kernels::convolution_weight_gradient(stream, of.shape, y, x, dw, memory);
}

// oneDNN's, of `images` images a call.
class Theirs {
public:
    Theirs(const CpuStream& stream, const Operands& of, Direction direction, std::int64_t images, bool blocked)
        : stream_(stream), of_(of), direction_(direction), images_(images), calls_(of.shape.batch / images) {
        const OneThread alone;
        const Convolution& s = of.shape;
        const Type type = type_of(of.dtype), weights_type = direction == Direction::weight_gradient ? Type::f32 : type;
        const Desc x({images, s.channels, s.height, s.width}, type, Tag::nhwc);
        const Desc y({images, s.filters, s.out_height(), s.out_width()}, type, Tag::nhwc);
        const dnnl::memory::dims grouped{s.groups, s.group_filters(), s.group_channels(), s.window.height.size,
                                         s.window.width.size};
        const dnnl::memory::dims plain(grouped.begin() + 1, grouped.end());
        const Desc w = s.groups > 1 ? Desc(grouped, weights_type, Tag::gohwi) : Desc(plain, weights_type, Tag::ohwi);
        Desc any_w = s.groups > 1 ? Desc(grouped, type, Tag::any) : Desc(plain, type, Tag::any);
        const Desc any_dw = s.groups > 1 ? Desc(grouped, Type::f32, Tag::any) : Desc(plain, Type::f32, Tag::any);
        const Desc any_x = blocked ? Desc(x.dims(), type, Tag::any) : x;
        const Desc any_y = blocked ? Desc(y.dims(), type, Tag::any) : y;
        make(any_x, any_w, any_dw, any_y);
        for (std::int64_t i = 0; i < stream.threads(); ++i)
            streams_.emplace_back(engine_);
        scratch_ = std::vector<Buffer>();
        const auto add = [&](const Desc& outside, const Desc& inside, bool into) {
            Side side{outside, inside, {}, {}};
            if (outside != inside) {
                const Desc &from = into ? outside : inside, &to = into ? inside : outside;
                side.reorder = dnnl::reorder(dnnl::reorder::primitive_desc(engine_, from, engine_, to));
            }
            return side;
        };
        x_ = add(x, inside_x_, direction != Direction::input_gradient);
        y_ = add(y, inside_y_, direction != Direction::forward);
        w_ = add(w, inside_w_, direction != Direction::weight_gradient);
        weights_ = Buffer(static_cast<std::int64_t>(inside_w_.get_size()) * (gradient() ? calls_ : 1));
        for (std::int64_t i = 0; i < stream.threads(); ++i) {
            scratch_.emplace_back(std::max<std::int64_t>(64, static_cast<std::int64_t>(scratchpad_.get_size())));
            x_memory_.emplace_back(static_cast<std::int64_t>(inside_x_.get_size()));
            y_memory_.emplace_back(static_cast<std::int64_t>(inside_y_.get_size()));
        }
    }

    const std::string& name() const { return name_; }

    void run() {
        const OneThread alone;
        if (!gradient() && w_.reorder) move(w_, of_.w.data(), weights_.data(), 0);
        std::byte* const inside_w = w_.reorder ? weights_.data() : gradient() ? of_.dw.data() : of_.w.data();
        const auto w_size = static_cast<std::int64_t>(inside_w_.get_size());
        stream_.parallel(calls_, 1, [&](std::int64_t begin, std::int64_t end) {
            const OneThread this_too;
            const auto thread = static_cast<std::size_t>(omp_get_thread_num());
            for (std::int64_t call = begin; call < end; ++call)
                one(call, thread, gradient() ? (calls_ > 1 ? weights_.data() : inside_w) + call * w_size : inside_w);
        });
        if (!gradient()) return;
        if (calls_ > 1) add_up(w_.reorder ? weights_.data() : of_.dw.data(), w_size / 4);
        if (w_.reorder) move(w_, weights_.data(), of_.dw.data(), 0);
    }

private:
    struct Side {
        Desc outside, inside;
        dnnl::primitive reorder_{};
        std::optional<dnnl::primitive> reorder;
    };

    bool gradient() const { return direction_ == Direction::weight_gradient; }

    void make(const Desc& x, const Desc& w, const Desc& dw, const Desc& y) {
        const WindowDim &h = of_.shape.window.height, &v = of_.shape.window.width;
        const dnnl::memory::dims strides{h.stride, v.stride}, dilates{h.dilation - 1, v.dilation - 1};
        const dnnl::memory::dims before{h.before, v.before}, after{h.after, v.after};
        const auto algorithm = dnnl::algorithm::convolution_direct;
        dnnl::primitive_attr attributes;
        attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
        const dnnl::convolution_forward::desc forward(dnnl::prop_kind::forward_training, algorithm, x, w, y, strides,
                                                      dilates, before, after);
        const dnnl::convolution_forward::primitive_desc hint(forward, attributes, engine_);
        const auto keep = [&](const auto& pd, const Desc& kx, const Desc& kw, const Desc& ky) {
            inside_x_ = kx, inside_w_ = kw, inside_y_ = ky;
            scratchpad_ = pd.scratchpad_desc();
            name_ = pd.impl_info_str();
        };
        if (direction_ == Direction::forward) {
            primitive_ = dnnl::convolution_forward(hint);
            keep(hint, hint.src_desc(), hint.weights_desc(), hint.dst_desc());
        } else if (direction_ == Direction::input_gradient) {
            const dnnl::convolution_backward_data::primitive_desc pd(
                dnnl::convolution_backward_data::desc(algorithm, x, w, y, strides, dilates, before, after), attributes,
                engine_, hint);
            primitive_ = dnnl::convolution_backward_data(pd);
            keep(pd, pd.diff_src_desc(), pd.weights_desc(), pd.diff_dst_desc());
        } else {
            const dnnl::convolution_backward_weights::primitive_desc pd(
                dnnl::convolution_backward_weights::desc(algorithm, x, dw, y, strides, dilates, before, after),
                attributes, engine_, hint);
            primitive_ = dnnl::convolution_backward_weights(pd);
            keep(pd, pd.src_desc(), pd.diff_weights_desc(), pd.diff_dst_desc());
        }
    }

    void move(const Side& side, std::byte* from, std::byte* to, std::size_t thread) {
        const bool into = &side != &w_ ? true : !gradient();
        const Desc &source = into ? side.outside : side.inside, &target = into ? side.inside : side.outside;
        side.reorder->execute(streams_[thread],
                              {{DNNL_ARG_FROM, {source, engine_, from}}, {DNNL_ARG_TO, {target, engine_, to}}});
    }
    void move_out(const Side& side, std::byte* from, std::byte* to, std::size_t thread) {
        side.reorder->execute(streams_[thread], {{DNNL_ARG_FROM, {side.inside, engine_, from}},
                                                 {DNNL_ARG_TO, {side.outside, engine_, to}}});
    }

    void one(std::int64_t call, std::size_t thread, std::byte* weights) {
        std::byte* const x_outside = of_.x.data() + call * static_cast<std::int64_t>(x_.outside.get_size());
        std::byte* const y_outside = of_.y.data() + call * static_cast<std::int64_t>(y_.outside.get_size());
        std::byte* const x = x_.reorder ? x_memory_[thread].data() : x_outside;
        std::byte* const y = y_.reorder ? y_memory_[thread].data() : y_outside;
        const bool reads_x = direction_ != Direction::input_gradient, reads_y = direction_ != Direction::forward;
        if (x_.reorder && reads_x) move(x_, x_outside, x, thread);
        if (y_.reorder && reads_y) move(y_, y_outside, y, thread);
        primitive_.execute(streams_[thread],
                           {{reads_x ? DNNL_ARG_SRC : DNNL_ARG_DIFF_SRC, {inside_x_, engine_, x}},
                            {gradient() ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, {inside_w_, engine_, weights}},
                            {reads_y ? DNNL_ARG_DIFF_DST : DNNL_ARG_DST, {inside_y_, engine_, y}},
                            {DNNL_ARG_SCRATCHPAD, {scratchpad_, engine_, scratch_[thread].data()}}});
        if (x_.reorder && !reads_x) move_out(x_, x, x_outside, thread);
        if (y_.reorder && !reads_y) move_out(y_, y, y_outside, thread);
    }

    void add_up(std::byte* memory, std::int64_t count) const {
        auto* const to = static_cast<float*>(static_cast<void*>(memory));
        auto* const all = static_cast<const float*>(static_cast<const void*>(weights_.data()));
        stream_.parallel(count, 65536, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) {
                float sum = all[i];
                for (std::int64_t call = 1; call < calls_; ++call)
                    sum += all[call * count + i];
                to[i] = sum;
            }
        });
    }

    const CpuStream& stream_;
    const Operands& of_;
    Direction direction_;
    std::int64_t images_, calls_;
    dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
    std::vector<dnnl::stream> streams_;
    dnnl::primitive primitive_;
    Desc inside_x_, inside_w_, inside_y_, scratchpad_;
    std::string name_;
    Side x_, y_, w_;
    Buffer weights_{64};
    std::vector<Buffer> scratch_, x_memory_, y_memory_;
};

struct Way {
    std::string name;
    std::function<void()> run;
    std::vector<double> times, ratios;
};

void compare(CpuStream& stream, const Named& named, std::int64_t batch, DType dtype, Direction direction,
             bool all_ways) {
    const Operands operands(convolution_of(named, batch), dtype);
    const Buffer workspace(std::max<std::int64_t>(64, workspace_bytes(stream, operands, direction)));
    const auto run_ours = [&] { ours(stream, operands, direction, workspace); };
    std::vector<std::unique_ptr<Theirs>> all;
    std::vector<Way> ways;
    std::vector<std::int64_t> cuts{1, batch / 4, batch};
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    for (const bool blocked : {false, true})
        for (const std::int64_t images : cuts) {
            if (images < 1 || batch % images != 0 || (stream.threads() > 1 && images == batch)) continue;
            if (direction == Direction::weight_gradient && images < batch / 4) continue;
            if (blocked && images != std::max<std::int64_t>(batch / 4, 1)) continue;
            try {
                all.push_back(std::make_unique<Theirs>(stream, operands, direction, images, blocked));
                Theirs* const it = all.back().get();
                ways.push_back({fmt::format("{} {} {}", blocked ? "blocked" : "nhwc", images, it->name()),
                                [it] { it->run(); },
                                {},
                                {}});
            } catch (const dnnl::error&) {
            }
        }
    run_ours();
    for (Way& way : ways)
        way.run();
    std::vector<double> our_times;
    const auto rounds = static_cast<int>(std::clamp(0.06 / seconds_of(run_ours), 5.0, 40.0));
    for (int round = 0; round < rounds; ++round) {
        our_times.push_back(seconds_of(run_ours));
        for (Way& way : ways) {
            way.times.push_back(seconds_of(way.run));
            way.ratios.push_back(our_times.back() / way.times.back());
        }
    }
    const Convolution& s = operands.shape;
    fmt::print("{:<9} {:>3}x{:<3} {:>4} to {:<4} {}x{} /{} g{:<3} d{} {:<4} {:<11} {} {:>8.3f}", named.model, s.height,
               s.width, s.channels, s.filters, named.taps, named.taps, named.stride, s.groups, named.dilation,
               name_of(dtype), direction_names[static_cast<int>(direction)],
               kernels::is_onednn(s, dtype, direction) ? "through oneDNN" : "our own       ", 1e3 * median(our_times));
    const auto best = std::max_element(ways.begin(), ways.end(),
                                       [](const Way& a, const Way& b) { return median(a.ratios) < median(b.ratios); });
    if (best == ways.end())
        fmt::print("        -\n");
    else
        fmt::print(" {:>8.3f} {:>5.2f} {}\n", 1e3 * median(best->times), median(best->ratios), best->name);
    if (all_ways)
        for (const Way& way : ways)
            fmt::print("    {:>8.3f} {:>5.2f} {}\n", 1e3 * median(way.times), median(way.ratios), way.name);
    std::fflush(stdout);
}

// model, size, channels, filters, taps, stride, groups, dilation
const Named shapes[] = {
    {"resnet18", 224, 3, 64, 7, 2, 1, 1},       {"resnet18", 56, 64, 64, 3, 1, 1, 1},
    {"resnet18", 56, 64, 128, 3, 2, 1, 1},      {"resnet18", 56, 64, 128, 1, 2, 1, 1},
    {"resnet18", 28, 128, 128, 3, 1, 1, 1},     {"resnet18", 28, 128, 256, 3, 2, 1, 1},
    {"resnet18", 28, 128, 256, 1, 2, 1, 1},     {"resnet18", 14, 256, 256, 3, 1, 1, 1},
    {"resnet18", 14, 256, 512, 3, 2, 1, 1},     {"resnet18", 14, 256, 512, 1, 2, 1, 1},
    {"resnet18", 7, 512, 512, 3, 1, 1, 1},      {"resnet50", 56, 64, 64, 1, 1, 1, 1},
    {"resnet50", 56, 64, 256, 1, 1, 1, 1},      {"resnet50", 56, 256, 64, 1, 1, 1, 1},
    {"resnet50", 56, 256, 128, 1, 1, 1, 1},     {"resnet50", 56, 128, 128, 3, 2, 1, 1},
    {"resnet50", 28, 128, 512, 1, 1, 1, 1},     {"resnet50", 56, 256, 512, 1, 2, 1, 1},
    {"resnet50", 28, 512, 128, 1, 1, 1, 1},     {"resnet50", 28, 512, 256, 1, 1, 1, 1},
    {"resnet50", 28, 256, 256, 3, 2, 1, 1},     {"resnet50", 14, 256, 1024, 1, 1, 1, 1},
    {"resnet50", 28, 512, 1024, 1, 2, 1, 1},    {"resnet50", 14, 1024, 256, 1, 1, 1, 1},
    {"resnet50", 14, 1024, 512, 1, 1, 1, 1},    {"resnet50", 14, 512, 512, 3, 2, 1, 1},
    {"resnet50", 7, 512, 2048, 1, 1, 1, 1},     {"resnet50", 14, 1024, 2048, 1, 2, 1, 1},
    {"resnet50", 7, 2048, 512, 1, 1, 1, 1},     {"resnext50", 56, 128, 128, 3, 1, 32, 1},
    {"resnext50", 56, 256, 256, 3, 2, 32, 1},   {"resnext50", 28, 256, 256, 3, 1, 32, 1},
    {"resnext50", 28, 512, 512, 3, 2, 32, 1},   {"resnext50", 14, 512, 512, 3, 1, 32, 1},
    {"resnext50", 14, 1024, 1024, 3, 2, 32, 1}, {"resnext50", 7, 1024, 1024, 3, 1, 32, 1},
    {"small", 28, 1, 32, 3, 1, 1, 1},           {"small", 28, 32, 32, 3, 1, 1, 1},
    {"small", 28, 32, 64, 3, 2, 1, 1},          {"small", 28, 32, 64, 1, 2, 1, 1},
    {"small", 14, 64, 64, 3, 1, 1, 1},          {"small", 14, 64, 128, 3, 2, 1, 1},
    {"small", 7, 128, 128, 3, 1, 1, 1},         {"lenet", 28, 1, 16, 5, 1, 1, 1},
    {"lenet", 14, 16, 32, 5, 1, 1, 1},          {"dilated", 28, 128, 128, 3, 1, 1, 2},
    {"depthwise", 28, 256, 256, 3, 1, 256, 1},  {"depthwise", 28, 256, 256, 3, 2, 256, 1},
};

} // namespace

int main(int argc, char** argv) {
    CpuStream stream(argc > 1 ? std::atoi(argv[1]) : 1);
    const std::string_view wanted = argc > 2 ? argv[2] : "";
    const std::int64_t batch = argc > 3 ? std::atoi(argv[3]) : 8;
    fmt::print("{}, batch {}; ms, ours / oneDNN's, its way: order of images, images a call, implementation\n",
               stream.text(), batch);
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const Named& named : shapes)
            for (const Direction direction :
                 {Direction::forward, Direction::input_gradient, Direction::weight_gradient}) {
                const std::string name =
                    fmt::format("{} {} {}", named.model, name_of(dtype), direction_names[static_cast<int>(direction)]);
                if (name.find(wanted) != std::string::npos) compare(stream, named, batch, dtype, direction, argc > 4);
            }
    return 0;
}
