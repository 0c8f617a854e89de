// SPDX-License-Identifier: Apache-2.0
// Attention over all heads: shares the heads among the threads.
#include "kernels/attention.hpp"

#include "kernels/check.hpp"
#include "kernels/cpu/attention_head.hpp"
#include "kernels/memory.hpp"

#include <algorithm>

namespace tessera::kernels {
namespace {

HeadSizes sizes_of(const AttentionShape& shape) {
    return {
        shape.tokens, shape.head_dim, shape.qkv_heads() * shape.head_dim, shape.heads * shape.head_dim, shape.group(),
        shape.scale,  shape.causal};
}

// Offsets, in elements, of time 0: of a query head in q and in y (0 <= head < B H), of a head of keys in k or v.
std::int64_t in_q(const AttentionShape& shape, std::int64_t head) {
    const std::int64_t number = head % shape.heads, before = shape.by_group ? number / shape.group() * 2 : 0;
    return (head / shape.heads * shape.tokens * shape.qkv_heads() + number + before) * shape.head_dim;
}
std::int64_t in_y(const AttentionShape& shape, std::int64_t head) {
    return (head / shape.heads * shape.tokens * shape.heads + head % shape.heads) * shape.head_dim;
}
std::int64_t in_k(const AttentionShape& shape, std::int64_t kv_head) {
    const std::int64_t number = kv_head % shape.kv_heads;
    const std::int64_t place = shape.by_group ? (number + 1) * (shape.group() + 2) - 2 : shape.heads + number;
    return (kv_head / shape.kv_heads * shape.tokens * shape.qkv_heads() + place) * shape.head_dim;
}
std::int64_t from_k_to_v(const AttentionShape& shape) {
    return shape.by_group ? shape.head_dim : shape.kv_heads * shape.head_dim;
}

// Heads of a forward call, groups of heads of a gradient.
std::int64_t forward_items(const AttentionShape& shape) { return shape.tokens == 0 ? 0 : shape.batch * shape.heads; }
std::int64_t gradient_items(const AttentionShape& shape) {
    return shape.tokens == 0 ? 0 : shape.batch * shape.kv_heads;
}

std::int64_t task_bytes(std::int64_t floats) { return align_up(floats * 4); }
std::int64_t workspace_bytes(const CpuStream& stream, std::int64_t items, std::int64_t floats) {
    return std::min<std::int64_t>(items, stream.threads()) * task_bytes(floats);
}

// Calls work(item, memory) for each head or group; a task has memory of its own, and which items it does changes no
// bit.
template <class Work> void for_each(const CpuStream& stream, std::int64_t items, std::int64_t floats,
                                    const View& workspace, const Work& work) {
    check_workspace("attention", workspace, workspace_bytes(stream, items, floats));
    const std::int64_t tasks = std::min<std::int64_t>(items, stream.threads());
    stream.parallel(tasks, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task) {
            auto* memory = static_cast<std::byte*>(workspace.memory()) + task * task_bytes(floats);
            for (std::int64_t item = items * task / tasks; item < items * (task + 1) / tasks; ++item)
                work(item, reinterpret_cast<float*>(memory));
        }
    });
}

template <class T> void run_forward(const CpuStream& stream, const AttentionShape& shape, const ConstView& qkv,
                                    const View& y, const View& log_sum_exp, const View& workspace) {
    const HeadSizes sizes = sizes_of(shape);
    const T* in = qkv.as<T>();
    T* out = y.as<T>();
    float* logarithms = log_sum_exp.as<float>();
    for_each(stream, forward_items(shape), sizes.forward_floats(), workspace, [&](std::int64_t head, float* memory) {
        const T* keys = in + in_k(shape, head / sizes.group);
        attention_head(ForwardHead<T>{sizes, in + in_q(shape, head), keys, keys + from_k_to_v(shape),
                                      out + in_y(shape, head), logarithms + head * sizes.times, memory});
    });
}

template <class T> void run_gradient(const CpuStream& stream, const AttentionShape& shape, const ConstView& qkv,
                                     const ConstView& y, const ConstView& dy, const ConstView& log_sum_exp,
                                     const View& dqkv, const View& workspace) {
    const HeadSizes sizes = sizes_of(shape);
    const T* in = qkv.as<T>();
    T* out = dqkv.as<T>();
    for_each(stream, gradient_items(shape), sizes.gradient_floats(), workspace, [&](std::int64_t item, float* memory) {
        const std::int64_t head = item * sizes.group, q = in_q(shape, head), k = in_k(shape, item);
        const std::int64_t v = k + from_k_to_v(shape);
        attention_gradient_head(GradientHead<T>{
            sizes, in + q, in + k, in + v, y.as<T>() + in_y(shape, head), dy.as<T>() + in_y(shape, head),
            log_sum_exp.as<float>() + head * sizes.times, out + q, out + k, out + v, memory});
    });
}

} // namespace

std::int64_t attention_workspace_bytes(const CpuStream& stream, const AttentionShape& shape, DType dtype) {
    check_attention(shape, dtype);
    return workspace_bytes(stream, forward_items(shape), sizes_of(shape).forward_floats());
}

void attention(CpuStream& stream, const AttentionShape& shape, ConstView qkv, View y, View log_sum_exp,
               View workspace) {
    check_attention(shape, qkv, y, log_sum_exp);
    if (qkv.dtype == DType::f32)
        run_forward<float>(stream, shape, qkv, y, log_sum_exp, workspace);
    else if (qkv.dtype == DType::bf16)
        run_forward<BFloat16>(stream, shape, qkv, y, log_sum_exp, workspace);
    else
        run_forward<Float16>(stream, shape, qkv, y, log_sum_exp, workspace);
}

std::int64_t attention_gradient_workspace_bytes(const CpuStream& stream, const AttentionShape& shape, DType dtype) {
    check_attention(shape, dtype);
    return workspace_bytes(stream, gradient_items(shape), sizes_of(shape).gradient_floats());
}

void attention_gradient(CpuStream& stream, const AttentionShape& shape, ConstView qkv, ConstView y, ConstView dy,
                        ConstView log_sum_exp, View dqkv, View workspace) {
    check_attention_gradient(shape, qkv, y, dy, log_sum_exp, dqkv);
    if (qkv.dtype == DType::f32)
        run_gradient<float>(stream, shape, qkv, y, dy, log_sum_exp, dqkv, workspace);
    else if (qkv.dtype == DType::bf16)
        run_gradient<BFloat16>(stream, shape, qkv, y, dy, log_sum_exp, dqkv, workspace);
    else
        run_gradient<Float16>(stream, shape, qkv, y, dy, log_sum_exp, dqkv, workspace);
}

} // namespace tessera::kernels
