// SPDX-License-Identifier: Apache-2.0
// Attention and its gradient as plain loops in double: what the kernels are compared with.
#pragma once

#include "kernels/attention.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <string>
#include <vector>

namespace tessera {

using Doubles = std::vector<double>;

struct AttentionSizes {
    std::int64_t batch, times, heads, depth;
    bool causal;
    double scale = 0.3;
    std::int64_t group = 1; // query heads that share keys
    bool by_group = false;  // how they lie in qkv

    std::int64_t kv_heads() const { return heads / group; }
    std::int64_t row() const { return (heads + 2 * kv_heads()) * depth; } // of one token
    Shape qkv() const { return Shape{batch, times, row()}; }
    Shape y() const { return Shape{batch, times, heads, depth}; }
    // The first of D numbers of query head h: its q, its k, its v in qkv; its y.
    std::size_t q(std::int64_t b, std::int64_t t, std::int64_t h) const {
        return at(b, t, by_group ? h / group * (group + 2) + h % group : h);
    }
    std::size_t k(std::int64_t b, std::size_t t, std::int64_t h) const {
        return at(b, static_cast<std::int64_t>(t), by_group ? h / group * (group + 2) + group : heads + h / group);
    }
    std::size_t v(std::int64_t b, std::size_t t, std::int64_t h) const {
        return at(b, static_cast<std::int64_t>(t),
                  by_group ? h / group * (group + 2) + group + 1 : heads + kv_heads() + h / group);
    }
    std::size_t y(std::int64_t b, std::int64_t t, std::int64_t h) const {
        return static_cast<std::size_t>(((b * times + t) * heads + h) * depth);
    }
    std::int64_t keys(std::int64_t query) const { return causal ? query + 1 : times; }
    kernels::AttentionShape shape() const {
        return {.batch = batch,
                .tokens = times,
                .heads = heads,
                .kv_heads = kv_heads(),
                .head_dim = depth,
                .scale = static_cast<float>(scale),
                .causal = causal,
                .by_group = by_group};
    }
    std::string text() const {
        return fmt::format("B {} T {} H {} G {} D {} causal {} scale {}{}", batch, times, heads, kv_heads(), depth,
                           causal, scale, by_group ? " by group" : "");
    }

private:
    std::size_t at(std::int64_t b, std::int64_t t, std::int64_t head) const {
        return static_cast<std::size_t>((b * times + t) * row() + head * depth);
    }
};

inline double product(const Doubles& a, std::size_t i, const Doubles& b, std::size_t j, std::int64_t count) {
    double sum = 0;
    for (std::size_t d = 0; d < static_cast<std::size_t>(count); ++d)
        sum += a[i + d] * b[j + d];
    return sum;
}

inline void add(Doubles& a, std::size_t i, double factor, const Doubles& b, std::size_t j, std::int64_t count) {
    for (std::size_t d = 0; d < static_cast<std::size_t>(count); ++d)
        a[i + d] += factor * b[j + d];
}

// p[s] of one query, and the logarithm of its denominator.
inline double softmax(const AttentionSizes& sizes, const Doubles& qkv, std::int64_t b, std::int64_t h,
                      std::int64_t query, Doubles& p) {
    p.assign(static_cast<std::size_t>(sizes.keys(query)), 0);
    double largest = -1e300, sum = 0;
    for (std::size_t s = 0; s < p.size(); ++s) {
        p[s] = sizes.scale * product(qkv, sizes.q(b, query, h), qkv, sizes.k(b, s, h), sizes.depth);
        largest = std::max(largest, p[s]);
    }
    for (double& score : p)
        sum += score = std::exp(score - largest);
    for (double& share : p)
        share /= sum;
    return largest + std::log(sum);
}

struct PlainAttention {
    Doubles y, log_sum_exp;
    double largest_score = 0; // what a score would be without cancellation: its rounding error is a share of that
};

template <class Visit> void for_each_query(const AttentionSizes& sizes, const Visit& visit) {
    for (std::int64_t b = 0; b < sizes.batch; ++b)
        for (std::int64_t h = 0; h < sizes.heads; ++h)
            for (std::int64_t query = 0; query < sizes.times; ++query)
                visit(b, h, query);
}

inline PlainAttention plain_attention(const AttentionSizes& sizes, const Doubles& qkv) {
    PlainAttention result{Doubles(static_cast<std::size_t>(sizes.y().count())), {}};
    Doubles p, magnitudes;
    for (const double value : qkv)
        magnitudes.push_back(std::abs(value));
    for_each_query(sizes, [&](std::int64_t b, std::int64_t h, std::int64_t query) {
        result.log_sum_exp.push_back(softmax(sizes, qkv, b, h, query, p));
        for (std::size_t s = 0; s < p.size(); ++s) {
            add(result.y, sizes.y(b, query, h), p[s], qkv, sizes.v(b, s, h), sizes.depth);
            const double score = std::abs(sizes.scale) *
                                 product(magnitudes, sizes.q(b, query, h), magnitudes, sizes.k(b, s, h), sizes.depth);
            result.largest_score = std::max(result.largest_score, score);
        }
    });
    return result;
}

inline Doubles plain_gradient(const AttentionSizes& sizes, const Doubles& qkv, const Doubles& dy) {
    Doubles gradient(qkv.size()), p;
    for_each_query(sizes, [&](std::int64_t b, std::int64_t h, std::int64_t query) {
        softmax(sizes, qkv, b, h, query, p);
        Doubles dp(p.size());
        double mean = 0;
        for (std::size_t s = 0; s < p.size(); ++s) {
            dp[s] = product(dy, sizes.y(b, query, h), qkv, sizes.v(b, s, h), sizes.depth);
            mean += p[s] * dp[s];
            add(gradient, sizes.v(b, s, h), p[s], dy, sizes.y(b, query, h), sizes.depth);
        }
        for (std::size_t s = 0; s < p.size(); ++s) {
            const double ds = sizes.scale * p[s] * (dp[s] - mean);
            add(gradient, sizes.q(b, query, h), ds, qkv, sizes.k(b, s, h), sizes.depth);
            add(gradient, sizes.k(b, s, h), ds, qkv, sizes.q(b, query, h), sizes.depth);
        }
    });
    return gradient;
}

} // namespace tessera
