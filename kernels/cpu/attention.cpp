// SPDX-License-Identifier: Apache-2.0
// Attention over all heads, plain or not: shares the heads among the threads.
#include "kernels/attention.hpp"
#include "kernels/cross_attention.hpp"

#include "kernels/check.hpp"
#include "kernels/cpu/attention_head.hpp"
#include "kernels/memory.hpp"

#include <algorithm>

namespace tessera::kernels {
namespace {

// Plain attention is that of a sequence over itself, without segments or bias.
CrossAttentionShape cross(const AttentionShape& shape) {
    return {.batch = shape.batch,
            .queries = shape.tokens,
            .keys = shape.tokens,
            .heads = shape.heads,
            .kv_heads = shape.kv_heads,
            .head_dim = shape.head_dim,
            .scale = shape.scale,
            .causal = shape.causal,
            .packed = true,
            .by_group = shape.by_group};
}

bool is_marked(const CrossAttentionShape& shape) { return shape.segments || shape.bias; }
std::int64_t kv_stride(const CrossAttentionShape& shape) {
    return (shape.packed ? shape.q_heads() : 2 * shape.kv_heads) * shape.head_dim;
}

HeadSizes sizes_of(const CrossAttentionShape& shape) {
    return {.queries = shape.queries,
            .keys = shape.keys,
            .depth = shape.head_dim,
            .q_stride = shape.q_heads() * shape.head_dim,
            .kv_stride = kv_stride(shape),
            .y_stride = shape.heads * shape.head_dim,
            .group = shape.group(),
            .scale = shape.scale,
            .causal = shape.causal};
}

// Offsets, in elements, of time 0: of a query head in q and in y (0 <= head < B H), of a head of keys in k or v.
std::int64_t in_q(const CrossAttentionShape& shape, std::int64_t head) {
    const std::int64_t number = head % shape.heads, before = shape.by_group ? number / shape.group() * 2 : 0;
    return (head / shape.heads * shape.queries * shape.q_heads() + number + before) * shape.head_dim;
}
std::int64_t in_y(const CrossAttentionShape& shape, std::int64_t head) {
    return (head / shape.heads * shape.queries * shape.heads + head % shape.heads) * shape.head_dim;
}
std::int64_t in_k(const CrossAttentionShape& shape, std::int64_t kv_head) {
    const std::int64_t number = kv_head % shape.kv_heads;
    const std::int64_t place = shape.by_group ? (number + 1) * (shape.group() + 2) - 2
                               : shape.packed ? shape.heads + number
                                              : number;
    return kv_head / shape.kv_heads * shape.keys * kv_stride(shape) + place * shape.head_dim;
}
std::int64_t from_k_to_v(const CrossAttentionShape& shape) {
    return shape.by_group ? shape.head_dim : shape.kv_heads * shape.head_dim;
}

// Of query head `head`; the gradient of its bias is that of its sequence alone.
HeadMarks marks_of(const CrossAttentionShape& shape, const CrossAttentionInputs& in, std::int64_t head, float* dbias) {
    HeadMarks marks;
    if (shape.segments) {
        marks.segments = in.segments.as<std::int32_t>() + head / shape.heads * shape.queries;
        marks.key_segments = in.key_segments.as<std::int32_t>() + head / shape.heads * shape.keys;
    }
    if (shape.bias) {
        marks.bias = in.bias.as<float>() + head % shape.heads;
        if (dbias != nullptr) marks.dbias = dbias + head / shape.heads * shape.bias_count() + head % shape.heads;
        marks.bias_stride = shape.heads;
    }
    return marks;
}

// Heads of a forward call, groups of heads of a gradient.
std::int64_t forward_items(const CrossAttentionShape& shape) {
    return shape.queries == 0 ? 0 : shape.batch * shape.heads;
}
std::int64_t gradient_items(const CrossAttentionShape& shape) {
    return shape.queries == 0 ? 0 : shape.batch * shape.kv_heads;
}
std::int64_t forward_floats(const CrossAttentionShape& shape) {
    const HeadSizes sizes = sizes_of(shape);
    return sizes.forward_floats() + (is_marked(shape) ? sizes.marks_floats() : 0);
}
std::int64_t gradient_floats(const CrossAttentionShape& shape) {
    const HeadSizes sizes = sizes_of(shape);
    return sizes.gradient_floats() + (is_marked(shape) ? sizes.marks_floats() : 0);
}
// The gradients of the bias of each sequence.
std::int64_t dbias_bytes(const CrossAttentionShape& shape) {
    return shape.bias ? align_up(shape.batch * shape.bias_count() * 4) : 0;
}

std::int64_t task_bytes(std::int64_t floats) { return align_up(floats * 4); }
std::int64_t workspace_bytes(const CpuStream& stream, std::int64_t items, std::int64_t floats) {
    return std::min<std::int64_t>(items, stream.threads()) * task_bytes(floats);
}

// Calls work(item, memory) for each head or group; a task has memory of its own, and which items it does changes no
// bit.
template <class Work> void for_each(const CpuStream& stream, std::int64_t items, std::int64_t floats,
                                    std::byte* workspace, const Work& work) {
    const std::int64_t tasks = std::min<std::int64_t>(items, stream.threads());
    stream.parallel(tasks, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task) {
            std::byte* memory = workspace + task * task_bytes(floats);
            for (std::int64_t item = items * task / tasks; item < items * (task + 1) / tasks; ++item)
                work(item, reinterpret_cast<float*>(memory));
        }
    });
}

template <class T> void run_forward(const CpuStream& stream, const CrossAttentionShape& shape,
                                    const CrossAttentionInputs& in, const View& y, const View& log_sum_exp,
                                    const View& workspace) {
    const HeadSizes sizes = sizes_of(shape);
    const T* q = in.q.as<T>();
    const T* kv = shape.packed ? q : in.kv.as<T>();
    T* out = y.as<T>();
    float* logarithms = log_sum_exp.as<float>();
    for_each(stream, forward_items(shape), forward_floats(shape), static_cast<std::byte*>(workspace.memory()),
             [&](std::int64_t head, float* memory) {
                 const T* keys = kv + in_k(shape, head / sizes.group);
                 attention_head(ForwardHead<T>{sizes, q + in_q(shape, head), keys, keys + from_k_to_v(shape),
                                               out + in_y(shape, head), logarithms + head * sizes.queries, memory,
                                               marks_of(shape, in, head, nullptr)});
             });
}

template <class T> void run_gradient(const CpuStream& stream, const CrossAttentionShape& shape,
                                     const CrossAttentionInputs& in, const ConstView& y, const ConstView& dy,
                                     const ConstView& log_sum_exp, const CrossAttentionGradients& out,
                                     const View& workspace) {
    const HeadSizes sizes = sizes_of(shape);
    const T* q = in.q.as<T>();
    const T* kv = shape.packed ? q : in.kv.as<T>();
    T* dq = out.q.as<T>();
    T* dkv = shape.packed ? dq : out.kv.as<T>();
    auto* memory_begin = static_cast<std::byte*>(workspace.memory());
    auto* dbias = reinterpret_cast<float*>(memory_begin);
    for_each(stream, gradient_items(shape), gradient_floats(shape), memory_begin + dbias_bytes(shape),
             [&](std::int64_t item, float* memory) {
                 const std::int64_t head = item * sizes.group, at = in_q(shape, head), k = in_k(shape, item);
                 const std::int64_t v = k + from_k_to_v(shape);
                 attention_gradient_head(GradientHead<T>{sizes, q + at, kv + k, kv + v, y.as<T>() + in_y(shape, head),
                                                         dy.as<T>() + in_y(shape, head),
                                                         log_sum_exp.as<float>() + head * sizes.queries, dq + at,
                                                         dkv + k, dkv + v, memory, marks_of(shape, in, head, dbias)});
             });
    if (!shape.bias) return;
    constexpr std::int64_t few = 1 << 12;
    stream.parallel(shape.bias_count(), few, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            float sum = 0;
            for (std::int64_t b = 0; b < forward_items(shape) / shape.heads; ++b)
                sum += dbias[b * shape.bias_count() + i];
            out.bias.as<float>()[i] = sum;
        }
    });
}

template <class Work> void with_type(DType dtype, const Work& work) {
    if (dtype == DType::f32)
        work.template operator()<float>();
    else if (dtype == DType::bf16)
        work.template operator()<BFloat16>();
    else
        work.template operator()<Float16>();
}

} // namespace

std::int64_t cross_attention_workspace_bytes(const CpuStream& stream, const CrossAttentionShape& shape, DType dtype) {
    check_cross_attention(shape, dtype);
    return workspace_bytes(stream, forward_items(shape), forward_floats(shape));
}

void cross_attention(CpuStream& stream, const CrossAttentionShape& shape, const CrossAttentionInputs& in, View y,
                     View log_sum_exp, View workspace) {
    check_cross_attention(shape, in, y, log_sum_exp);
    check_workspace("attention", workspace, cross_attention_workspace_bytes(stream, shape, in.q.dtype));
    with_type(in.q.dtype, [&]<class T>() { run_forward<T>(stream, shape, in, y, log_sum_exp, workspace); });
}

std::int64_t cross_attention_gradient_workspace_bytes(const CpuStream& stream, const CrossAttentionShape& shape,
                                                      DType dtype) {
    check_cross_attention(shape, dtype);
    return dbias_bytes(shape) + workspace_bytes(stream, gradient_items(shape), gradient_floats(shape));
}

void cross_attention_gradient(CpuStream& stream, const CrossAttentionShape& shape, const CrossAttentionInputs& in,
                              ConstView y, ConstView dy, ConstView log_sum_exp, const CrossAttentionGradients& out,
                              View workspace) {
    check_cross_attention_gradient(shape, in, y, dy, log_sum_exp, out);
    check_workspace("attention", workspace, cross_attention_gradient_workspace_bytes(stream, shape, in.q.dtype));
    with_type(in.q.dtype, [&]<class T>() { run_gradient<T>(stream, shape, in, y, dy, log_sum_exp, out, workspace); });
}

std::int64_t attention_workspace_bytes(const CpuStream& stream, const AttentionShape& shape, DType dtype) {
    check_attention(shape, dtype);
    return cross_attention_workspace_bytes(stream, cross(shape), dtype);
}

void attention(CpuStream& stream, const AttentionShape& shape, ConstView qkv, View y, View log_sum_exp,
               View workspace) {
    check_attention(shape, qkv, y, log_sum_exp);
    cross_attention(stream, cross(shape), {.q = qkv}, y, log_sum_exp, workspace);
}

std::int64_t attention_gradient_workspace_bytes(const CpuStream& stream, const AttentionShape& shape, DType dtype) {
    check_attention(shape, dtype);
    return cross_attention_gradient_workspace_bytes(stream, cross(shape), dtype);
}

void attention_gradient(CpuStream& stream, const AttentionShape& shape, ConstView qkv, ConstView y, ConstView dy,
                        ConstView log_sum_exp, View dqkv, View workspace) {
    check_attention_gradient(shape, qkv, y, dy, log_sum_exp, dqkv);
    cross_attention_gradient(stream, cross(shape), {.q = qkv}, y, dy, log_sum_exp, {.q = dqkv}, workspace);
}

} // namespace tessera::kernels
