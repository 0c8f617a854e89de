// SPDX-License-Identifier: Apache-2.0
// Embedding on the CPU. Threads share the gradient by columns, so that each element's sum runs over the tokens in
// order.
#include "kernels/embedding.hpp"

#include "kernels/cpu/loops.hpp"

namespace tessera::kernels {
namespace {

constexpr std::int64_t elements_per_thread = 65536;
constexpr std::int32_t none_allowed = 0; // 0 is a token like any other

struct Sizes {
    std::int64_t tokens;
    std::int64_t columns;
    std::int64_t first; // row of the table
    std::int64_t rows;

    bool has(std::int32_t token) const { return token >= first && token < first + rows; }
};

Sizes checked_sizes(std::string_view kernel, const ConstView& tokens, const ConstView& table, VocabularyShard shard,
                    const ConstView& rows) {
    const std::int64_t columns = table.shape.count(1, table.shape.rank());
    check_count(kernel, "the rows", rows, tokens.count() * columns);
    classes_in(kernel, shard, table.shape[0]);
    check_classes("token", tokens, shard.classes, shard.classes == 0 ? -1 : none_allowed);
    return {tokens.count(), columns, shard.first, table.shape[0]};
}

template <class From, class To> TESSERA_MULTIVERSION void copy_rows(const std::int32_t* tokens, const From* table,
                                                                    const Sizes& sizes, std::int64_t begin,
                                                                    std::int64_t end, To* y) {
    for (std::int64_t n = begin; n < end; ++n) {
        To* to = y + n * sizes.columns;
        if (!sizes.has(tokens[n])) {
            std::fill_n(to, sizes.columns, To(0.0f));
            continue;
        }
        const From* from = table + (tokens[n] - sizes.first) * sizes.columns;
        simd::for_columns(sizes.columns, [&](std::int64_t c, auto width) TESSERA_INLINED {
            simd::store(to + c, simd::load(from + c, width), width);
        });
    }
}

// Columns [begin, end) of every token's row.
template <class T> TESSERA_MULTIVERSION void add_columns(const std::int32_t* tokens, const Sizes& sizes, const T* dy,
                                                         std::int64_t begin, std::int64_t end, float* dtable) {
    for (std::int64_t n = 0; n < sizes.tokens; ++n) {
        if (!sizes.has(tokens[n])) continue;
        const T* from = dy + n * sizes.columns + begin;
        float* to = dtable + (tokens[n] - sizes.first) * sizes.columns + begin;
        simd::for_columns(end - begin, [&](std::int64_t c, auto width) TESSERA_INLINED {
            simd::store(to + c, simd::load(to + c, width) + simd::load(from + c, width), width);
        });
    }
}

} // namespace

void embedding(CpuStream& stream, ConstView tokens, ConstView table, VocabularyShard shard, View y) {
    const Sizes sizes = checked_sizes("embedding", tokens, table, shard, y);
    with_float_type("embedding", table.dtype, [&]<class From>() {
        with_float_type("embedding", y.dtype, [&]<class To>() {
            const auto work = [&](std::int64_t begin, std::int64_t end) {
                copy_rows(tokens.as<std::int32_t>(), table.as<From>(), sizes, begin, end, y.as<To>());
            };
            stream.parallel(sizes.tokens, rows_per_thread(sizes.columns, elements_per_thread), std::ref(work));
        });
    });
}

std::int64_t embedding_gradient_workspace_bytes(const CpuStream&, std::int64_t, std::int64_t) { return 0; }

void embedding_gradient(CpuStream& stream, ConstView tokens, ConstView dy, VocabularyShard shard, View dtable, View) {
    const Sizes sizes = checked_sizes("embedding_gradient", tokens, dtable, shard, dy);
    auto* table = dtable.as<float>();
    const auto clear = [&](std::int64_t begin, std::int64_t end) { std::fill(table + begin, table + end, 0.0f); };
    stream.parallel(dtable.count(), elements_per_thread, std::ref(clear));
    with_float_type("embedding_gradient", dy.dtype, [&]<class T>() {
        const auto work = [&](std::int64_t begin, std::int64_t end) { // in units of vectors
            add_columns(tokens.as<std::int32_t>(), sizes, dy.as<T>(), begin * simd::lanes,
                        std::min(end * simd::lanes, sizes.columns), table);
        };
        stream.parallel((sizes.columns + simd::lanes - 1) / simd::lanes,
                        rows_per_thread(sizes.tokens * simd::lanes, elements_per_thread), std::ref(work));
    });
}

} // namespace tessera::kernels
