// SPDX-License-Identifier: Apache-2.0
// The graphs of operations in which cuDNN knows attention (Dao 2023, as the library fuses it): an engine takes the
// whole pattern or nothing. The order of operations is that of NVIDIA's cudnn-frontend.
#include "kernels/cuda/cudnn_attention.hpp"

#include "kernels/cuda/device.hpp"

#include <algorithm>
#include <bit>

namespace tessera::cuda {
namespace {

using kernels::AttentionShape;
using Dims = CudnnGraph::Dims;
using Tensor = CudnnGraph::Tensor;
using Binary = CudnnGraph::Binary;
using Unary = CudnnGraph::Unary;
namespace name = attention_name;

constexpr std::int64_t score_tile = 128; // rows and columns of scores are kept in whole tiles

std::int64_t row_of(const AttentionShape& shape) { return shape.qkv_heads() * shape.head_dim; } // a token's elements

// Elements from one head of q, and of k or v, to the next, and to the first head of k and v.
struct Heads {
    std::int64_t q_step, kv_step, k, v;
};
Heads heads_of(const AttentionShape& shape) {
    const std::int64_t depth = shape.head_dim, group = shape.group();
    if (!shape.by_group) return {depth, depth, shape.heads * depth, (shape.heads + shape.kv_heads) * depth};
    const std::int64_t step = (group + 2) * depth;
    return {group == 1 ? step : depth, step, group * depth, (group + 1) * depth};
}

// Of a gradient too: the same places in dqkv. Keys and values of products are wanted as (D, T).
struct Places {
    Dims q_dims, q_strides, kv_dims, kv_strides, y_strides, row_dims, row_strides, score_dims;
    explicit Places(const AttentionShape& s)
        : q_dims{s.batch, s.heads, s.tokens, s.head_dim}, q_strides{s.tokens * row_of(s), heads_of(s).q_step, row_of(s),
                                                                    1},
          kv_dims{s.batch, s.kv_heads, s.tokens, s.head_dim}, kv_strides{s.tokens * row_of(s), heads_of(s).kv_step,
                                                                         row_of(s), 1},
          y_strides{s.tokens * s.heads * s.head_dim, s.head_dim, s.heads * s.head_dim, 1}, row_dims{s.batch, s.heads,
                                                                                                    s.tokens, 1},
          row_strides{s.heads * s.tokens, s.tokens, 1, 1}, score_dims{s.batch, s.heads, s.tokens, s.tokens} {}
};

Dims swapped(Dims dims) {
    std::swap(dims[2], dims[3]);
    return dims;
}

// What both graphs say, each with scores of its own.
class Attention {
public:
    Attention(const AttentionShape& shape, DType dtype) : shape_(shape), dtype_(dtype), at_(shape) {}

    CudnnGraph forward() {
        const Tensor k = turned(name::k), v = stored(name::v, at_.kv_dims, at_.kv_strides);
        const Tensor y = stored(name::y, at_.q_dims, at_.y_strides), logarithms = row(name::log_sum_exp);
        const Tensor q = stored(name::q, at_.q_dims, at_.q_strides);
        const Tensor scores = masked(scaled(product(q, k), graph_.constant(shape_.scale)));
        const Tensor most = between_rows();
        graph_.largest(scores, most);
        const Tensor powers = made(Unary::exp, made(Binary::subtract, scores, most));
        const Tensor sums = between_rows(), logs = between_rows();
        graph_.sum(powers, sums);
        graph_.apply(Unary::log, sums, logs);
        graph_.apply(Binary::add, most, logs, logarithms);
        const Tensor shares = graph_.between(dtype_, at_.score_dims);
        graph_.apply(Binary::divide, powers, sums, shares);
        graph_.matmul(shares, v, y);
        return std::move(graph_);
    }

    CudnnGraph gradient() {
        const Tensor q = stored(name::q, at_.q_dims, at_.q_strides), k = turned(name::k), v = turned(name::v);
        const Tensor dy = stored(name::dy, at_.q_dims, at_.y_strides), scale = graph_.constant(shape_.scale);
        const Tensor deltas = deltas_of(dy, stored(name::y, at_.q_dims, at_.y_strides));
        const Tensor exponents = made(Binary::subtract, scaled(product(q, k), scale), row(name::log_sum_exp));
        const Tensor shares = made(Unary::exp, masked(exponents));
        to_keys(shares, dy, name::dv);
        const Tensor slopes = made(Binary::multiply, made(Binary::subtract, product(dy, v), deltas), shares);
        const Tensor scores = scaled(slopes, scale);
        to_keys(scores, q, name::dk);
        graph_.matmul(scores, graph_.transposed(k, dtype_), stored(name::dq, at_.q_dims, at_.q_strides));
        return std::move(graph_);
    }

private:
    Tensor stored(std::int64_t which, const Dims& dims, const Dims& strides) {
        return graph_.stored(which, dtype_, dims, strides);
    }
    Tensor turned(std::int64_t which) { return stored(which, swapped(at_.kv_dims), swapped(at_.kv_strides)); }
    Tensor row(std::int64_t which) { return graph_.stored(which, DType::f32, at_.row_dims, at_.row_strides); }
    Tensor between_rows() { return graph_.between(DType::f32, at_.row_dims); }
    Tensor between_scores() { return graph_.between(DType::f32, at_.score_dims); }

    Tensor product(Tensor a, Tensor b) {
        const Tensor c = between_scores();
        graph_.matmul(a, b, c);
        return c;
    }
    Tensor made(Binary function, Tensor a, Tensor b) {
        const Tensor result = between_scores();
        graph_.apply(function, a, b, result);
        return result;
    }
    Tensor made(Unary function, Tensor x) {
        const Tensor result = between_scores();
        graph_.apply(function, x, result);
        return result;
    }
    Tensor scaled(Tensor scores, Tensor scale) { return made(Binary::multiply, scores, scale); }
    Tensor masked(Tensor scores) { return shape_.causal ? graph_.causal(scores) : scores; }

    // sum_d dy * y, which lies in memory between the engine's two kernels.
    Tensor deltas_of(Tensor dy, Tensor y) {
        const Tensor products = graph_.between(DType::f32, at_.q_dims), sums = between_rows(),
                     deltas = row(name::deltas);
        graph_.apply(Binary::multiply, dy, y, products);
        graph_.sum(products, sums);
        graph_.apply(Binary::multiply, sums, graph_.constant(1), deltas);
        return deltas;
    }

    // The gradient of keys or values: scores' b, summed over the heads that share them.
    void to_keys(Tensor scores, Tensor b, std::int64_t which) {
        const Tensor turned_scores = graph_.transposed(scores, dtype_);
        const Tensor result = stored(which, at_.kv_dims, at_.kv_strides);
        if (shape_.group() == 1) return graph_.matmul(turned_scores, b, result);
        const Tensor of_heads = graph_.between(dtype_, at_.q_dims);
        graph_.matmul(turned_scores, b, of_heads);
        graph_.sum(of_heads, result);
    }

    AttentionShape shape_;
    DType dtype_;
    Places at_;
    CudnnGraph graph_;
};

const void* moved(const ConstView& view, std::int64_t elements) {
    return static_cast<const std::byte*>(view.data) + elements * bytes_of(view.dtype);
}

bool aligned(std::initializer_list<const void*> addresses) {
    return std::ranges::all_of(addresses, [](const void* address) {
        return reinterpret_cast<std::uintptr_t>(address) % cudnn_alignment == 0;
    });
}

// Elsewhere the graph below may be run by an engine that adds in any order (cudnn-frontend,
// is_deterministic_algorithm).
bool gradient_repeats_its_bits(const CudaStream& stream) {
    int major = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, stream.device()), "cudaDeviceGetAttribute");
    return major == 8 || major == 9;
}

} // namespace

bool attention_fits_cudnn(const AttentionShape& shape, DType dtype) {
    const bool regular = !shape.by_group || shape.group() == 1 || shape.kv_heads == 1;
    return regular && (dtype == DType::bf16 || dtype == DType::f16) && shape.head_dim % 8 == 0 && shape.row_count() > 0;
}

constexpr std::int64_t attention_words = 100; // those of convolutions begin below

ChoiceWords asked_words(AttentionPart part, const AttentionShape& s, DType dtype) {
    return {attention_words + static_cast<std::int64_t>(part),
            static_cast<std::int64_t>(dtype),
            s.batch,
            s.tokens,
            s.heads,
            s.kv_heads,
            s.head_dim,
            std::bit_cast<std::int32_t>(s.scale),
            s.causal,
            s.by_group};
}

AskedAttention asked_attention(const ChoiceWords& words) {
    return {.part = static_cast<AttentionPart>(words.at(0) - attention_words),
            .dtype = static_cast<DType>(words.at(1)),
            .shape = {.batch = words.at(2),
                      .tokens = words.at(3),
                      .heads = words.at(4),
                      .kv_heads = words.at(5),
                      .head_dim = words.at(6),
                      .scale = std::bit_cast<float>(static_cast<std::int32_t>(words.at(7))),
                      .causal = words.at(8) != 0,
                      .by_group = words.at(9) != 0}};
}

CudnnGraph attention_graph(const AttentionShape& shape, DType dtype) { return Attention(shape, dtype).forward(); }

CudnnGraph attention_gradient_graph(const AttentionShape& shape, DType dtype) {
    return Attention(shape, dtype).gradient();
}

std::int64_t attention_gradient_plan_bytes(const AttentionShape& shape) {
    const std::int64_t tokens = (shape.tokens + score_tile - 1) / score_tile * score_tile;
    const std::int64_t of_heads = shape.group() == 1 ? 0 : 2 * shape.y_count();
    return attention_plan_bytes + 2 * (shape.batch * shape.heads * tokens * tokens + of_heads);
}

bool attention_by_cudnn(CudaStream& stream, const AttentionShape& shape, const ConstView& qkv, const View& y,
                        const View& log_sum_exp, void* workspace, const std::function<void()>& otherwise) {
    if (!attention_fits_cudnn(shape, qkv.dtype) || !aligned({qkv.data, y.data, log_sum_exp.data})) return false;
    const Heads at = heads_of(shape);
    return run_by_cudnn(stream,
                        {.key = asked_words(AttentionPart::forward, shape, qkv.dtype),
                         .describe = [&] { return attention_graph(shape, qkv.dtype); },
                         .limits = {.workspace_bytes = attention_plan_bytes},
                         .operands = {{name::q, qkv.data},
                                      {name::k, moved(qkv, at.k)},
                                      {name::v, moved(qkv, at.v)},
                                      {name::y, y.data},
                                      {name::log_sum_exp, log_sum_exp.data}},
                         .workspace = workspace},
                        otherwise);
}

bool attention_gradient_by_cudnn(CudaStream& stream, const AttentionShape& shape, const ConstView& qkv,
                                 const ConstView& y, const ConstView& dy, const ConstView& log_sum_exp,
                                 const View& dqkv, const View& deltas, void* workspace,
                                 const std::function<void()>& otherwise) {
    if (!attention_fits_cudnn(shape, qkv.dtype) || !gradient_repeats_its_bits(stream) ||
        !aligned({qkv.data, y.data, dy.data, log_sum_exp.data, dqkv.data, deltas.data}))
        return false;
    const Heads at = heads_of(shape);
    const std::int64_t bytes = attention_gradient_plan_bytes(shape);
    return run_by_cudnn(stream,
                        {.key = asked_words(AttentionPart::gradient, shape, qkv.dtype),
                         .describe = [&] { return attention_gradient_graph(shape, qkv.dtype); },
                         .limits = {.workspace_bytes = bytes},
                         .operands = {{name::q, qkv.data},
                                      {name::k, moved(qkv, at.k)},
                                      {name::v, moved(qkv, at.v)},
                                      {name::y, y.data},
                                      {name::log_sum_exp, log_sum_exp.data},
                                      {name::dy, dy.data},
                                      {name::dq, dqkv.data},
                                      {name::dk, moved(dqkv, at.k)},
                                      {name::dv, moved(dqkv, at.v)},
                                      {name::deltas, deltas.data}},
                         .workspace = workspace},
                        otherwise);
}

} // namespace tessera::cuda
