// SPDX-License-Identifier: Apache-2.0
// Attention over all heads: checks the views and shares the heads among the threads.
#include "kernels/attention.hpp"

#include "kernels/cpu/attention_head.hpp"
#include "kernels/error.hpp"
#include "kernels/memory.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera::kernels {
namespace {

constexpr std::int64_t largest_depth = 256;

// All heads of a call; x, y and the like below have the dtype T.
struct Heads {
    std::int64_t batch, times, heads, depth;

    explicit Heads(const Shape& qkv) {
        if (qkv.rank() != 5 || qkv[2] != 3 || qkv[4] < 1 || qkv[4] > largest_depth)
            throw InternalError(fmt::format("attention: qkv is {}, expected (B, T, 3, H, D) with D in 1..{}",
                                            qkv.text(), largest_depth));
        batch = qkv[0], times = qkv[1], heads = qkv[3], depth = qkv[4];
    }
    std::int64_t count() const { return times == 0 ? 0 : batch * heads; }
    std::int64_t tasks(int threads) const { return std::min<std::int64_t>(count(), threads); }
    HeadSizes sizes(float scale, bool causal) const {
        return {times, depth, 3 * heads * depth, heads * depth, scale, causal};
    }
    // Offsets, in elements, of time 0 of a head; part 0, 1 and 2 of qkv are q, k and v.
    std::int64_t in_qkv(std::int64_t head, int part) const {
        return (head / heads * times * 3 + part) * heads * depth + head % heads * depth;
    }
    std::int64_t in_y(std::int64_t head) const { return (head / heads * times * heads + head % heads) * depth; }
};

std::int64_t task_bytes(std::int64_t floats) { return align_up(floats * 4); }

void check_view(const char* name, const ConstView& view, std::int64_t count, DType dtype) {
    if (view.count() != count || view.dtype != dtype || (view.data == nullptr && count > 0))
        throw InternalError(fmt::format("attention: {} is {} {}, expected {} {}", name, view.shape.text(),
                                        name_of(view.dtype), count, name_of(dtype)));
}

void check_dtype(DType dtype) {
    if (dtype != DType::f32 && dtype != DType::bf16)
        throw InternalError(fmt::format("attention of {}: only f32 and bf16", name_of(dtype)));
}

void check_workspace(const View& workspace, std::int64_t bytes) {
    if (bytes > 0 && (!workspace || workspace.bytes() < bytes))
        throw InternalError(fmt::format("attention: the workspace has {} bytes, {} are wanted",
                                        workspace ? workspace.bytes() : 0, bytes));
}

// Calls work(head, memory) for each head; a task has memory of its own, and which heads it does changes no bit.
template <class Work> void for_each_head(const CpuStream& stream, const Heads& heads, std::int64_t floats,
                                         const View& workspace, const Work& work) {
    const std::int64_t tasks = heads.tasks(stream.threads());
    stream.parallel(tasks, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task) {
            auto* memory = static_cast<std::byte*>(workspace.memory()) + task * task_bytes(floats);
            for (std::int64_t head = heads.count() * task / tasks; head < heads.count() * (task + 1) / tasks; ++head)
                work(head, reinterpret_cast<float*>(memory));
        }
    });
}

template <class T> void run_forward(const CpuStream& stream, const Heads& heads, const HeadSizes& sizes,
                                    const ConstView& qkv, const View& y, const View& log_sum_exp,
                                    const View& workspace) {
    const T* in = qkv.as<T>();
    T* out = y.as<T>();
    float* logarithms = log_sum_exp.as<float>();
    for_each_head(stream, heads, sizes.forward_floats(), workspace, [&](std::int64_t head, float* memory) {
        attention_head(ForwardHead<T>{sizes, in + heads.in_qkv(head, 0), in + heads.in_qkv(head, 1),
                                      in + heads.in_qkv(head, 2), out + heads.in_y(head),
                                      logarithms + head * sizes.times, memory});
    });
}

template <class T> void run_gradient(const CpuStream& stream, const Heads& heads, const HeadSizes& sizes,
                                     const ConstView& qkv, const ConstView& y, const ConstView& dy,
                                     const ConstView& log_sum_exp, const View& dqkv, const View& workspace) {
    const T* in = qkv.as<T>();
    T* out = dqkv.as<T>();
    for_each_head(stream, heads, sizes.gradient_floats(), workspace, [&](std::int64_t head, float* memory) {
        attention_gradient_head(GradientHead<T>{
            sizes, in + heads.in_qkv(head, 0), in + heads.in_qkv(head, 1), in + heads.in_qkv(head, 2),
            y.as<T>() + heads.in_y(head), dy.as<T>() + heads.in_y(head), log_sum_exp.as<float>() + head * sizes.times,
            out + heads.in_qkv(head, 0), out + heads.in_qkv(head, 1), out + heads.in_qkv(head, 2), memory});
    });
}

} // namespace

std::int64_t attention_workspace_bytes(const CpuStream& stream, const Shape& qkv, DType dtype) {
    check_dtype(dtype);
    const Heads heads(qkv);
    return heads.tasks(stream.threads()) * task_bytes(heads.sizes(1, false).forward_floats());
}

void attention(CpuStream& stream, ConstView qkv, float scale, bool causal, View y, View log_sum_exp, View workspace) {
    const Heads heads(qkv.shape);
    check_dtype(qkv.dtype);
    check_view("qkv", qkv, qkv.count(), qkv.dtype);
    check_view("y", y, qkv.count() / 3, qkv.dtype);
    check_view("log_sum_exp", log_sum_exp, heads.batch * heads.heads * heads.times, DType::f32);
    check_workspace(workspace, attention_workspace_bytes(stream, qkv.shape, qkv.dtype));
    const HeadSizes sizes = heads.sizes(scale, causal);
    if (qkv.dtype == DType::f32)
        run_forward<float>(stream, heads, sizes, qkv, y, log_sum_exp, workspace);
    else
        run_forward<BFloat16>(stream, heads, sizes, qkv, y, log_sum_exp, workspace);
}

std::int64_t attention_gradient_workspace_bytes(const CpuStream& stream, const Shape& qkv, DType dtype) {
    check_dtype(dtype);
    const Heads heads(qkv);
    return heads.tasks(stream.threads()) * task_bytes(heads.sizes(1, false).gradient_floats());
}

void attention_gradient(CpuStream& stream, ConstView qkv, ConstView y, ConstView dy, ConstView log_sum_exp, float scale,
                        bool causal, View dqkv, View workspace) {
    const Heads heads(qkv.shape);
    check_dtype(qkv.dtype);
    check_view("qkv", qkv, qkv.count(), qkv.dtype);
    check_view("y", y, qkv.count() / 3, qkv.dtype);
    check_view("dy", dy, qkv.count() / 3, qkv.dtype);
    check_view("log_sum_exp", log_sum_exp, heads.batch * heads.heads * heads.times, DType::f32);
    check_view("dqkv", dqkv, qkv.count(), qkv.dtype);
    check_workspace(workspace, attention_gradient_workspace_bytes(stream, qkv.shape, qkv.dtype));
    const HeadSizes sizes = heads.sizes(scale, causal);
    if (qkv.dtype == DType::f32)
        run_gradient<float>(stream, heads, sizes, qkv, y, dy, log_sum_exp, dqkv, workspace);
    else
        run_gradient<BFloat16>(stream, heads, sizes, qkv, y, dy, log_sum_exp, dqkv, workspace);
}

} // namespace tessera::kernels
