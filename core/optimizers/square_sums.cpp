// SPDX-License-Identifier: Apache-2.0
// Sums of squares, block by block, and their totals.
#include "core/optimizers/square_sums.hpp"

#include "kernels/copy.hpp"
#include "kernels/reduce.hpp"

#include <array>
#include <span>

namespace tessera {
namespace {

static_assert(flat_block % kernels::square_sum_block == 0, "a run of a gradient consists of whole blocks");

std::int64_t blocks_of(std::int64_t count) {
    return (count + kernels::square_sum_block - 1) / kernels::square_sum_block;
}

// Hands tensors to a kernel that takes lists of them, a batch at a time: a step allocates nothing.
template <std::size_t lists, class Work> class Batches {
public:
    explicit Batches(const Work& work) : work_(work) {}
    void add(const std::array<View, lists>& views) {
        for (std::size_t list = 0; list < lists; ++list)
            views_[list][size_] = views[list];
        if (++size_ == most) flush();
    }
    void flush() {
        std::array<std::span<const View>, lists> spans;
        for (std::size_t list = 0; list < lists; ++list)
            spans[list] = std::span(views_[list]).first(size_);
        if (size_ > 0) work_(spans);
        size_ = 0;
    }

private:
    static constexpr std::size_t most = 64;
    const Work& work_;
    std::array<std::array<View, most>, lists> views_;
    std::size_t size_ = 0;
};

// gradients -> the sums of squares of all their blocks, one gradient after another. A rank that holds a part of a
// gradient sums over blocks of its part, and leaves what it does not count at 0.
class SquareSums final : public Op {
public:
    std::string_view name() const override { return "square_sums"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        std::int64_t blocks = 0;
        for (const TensorType& gradient : in)
            blocks += blocks_of(gradient.shape.count());
        return {{{blocks}, DType::f32}};
    }
    std::optional<std::vector<Placement>> placed(std::span<const TensorType>,
                                                 std::span<const Placement> inputs) const override {
        using Kind = Placement::Kind;
        for (const Placement& placement : inputs)
            if (placement.kind == Kind::partial) return std::nullopt;
        return std::vector<Placement>{Placement::partial()}; // not all of them are on every rank
    }
    void run(Stream& stream, const Operands& a) const override {
        auto* next = a.outputs[0].as<float>();
        if (a.locality != nullptr) std::visit([&](auto& s) { kernels::fill(s, a.outputs[0], 0); }, stream);
        const auto sum = [&](const auto& lists) {
            std::visit([&](auto& s) { kernels::square_sums(s, lists[0], lists[1]); }, stream);
        };
        Batches<2, decltype(sum)> batch(sum);
        for (std::size_t i = 0; i < a.inputs.size(); ++i) {
            const View& gradient = a.inputs[i];
            const std::int64_t first = a.locality == nullptr ? 0 : blocks_of(a.locality->runs[i].begin);
            if (a.counts(i)) batch.add({gradient, View(next + first, {blocks_of(gradient.count())}, DType::f32)});
            next += blocks_of(a.locality == nullptr ? gradient.count() : a.locality->wholes[i].count());
        }
        batch.flush();
    }
};

// The sums of the blocks of tensors with so many elements -> the sum of each tensor, or of all: first of each tensor,
// then of those.
class Totals final : public Op {
public:
    Totals(std::vector<std::int64_t> counts, bool of_all) : counts_(std::move(counts)), of_all_(of_all) {}
    std::string_view name() const override { return of_all_ ? "total" : "totals"; }
    std::vector<TensorType> infer(std::span<const TensorType>) const override {
        return {{of_all_ ? Shape{} : shape(), DType::f32}};
    }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType>,
                                 std::span<const TensorType>) const override {
        return of_all_ ? shape().count() * bytes_of(DType::f32) : 0;
    }
    void run(Stream& stream, const Operands& a) const override {
        const View sums(of_all_ ? a.workspace.memory() : a.outputs[0].memory(), shape(), DType::f32);
        auto* next = a.inputs[0].as<float>();
        auto* sum = sums.as<float>();
        const auto add = [&](const auto& lists) {
            const auto count = static_cast<std::int64_t>(lists[0].size());
            std::visit([&](auto& s) { kernels::sums(s, lists[0], View(sum, {count}, DType::f32)); }, stream);
            sum += count;
        };
        Batches<1, decltype(add)> batch(add);
        for (const std::int64_t count : counts_) {
            batch.add({View(next, {blocks_of(count)}, DType::f32)});
            next += blocks_of(count);
        }
        batch.flush();
        if (of_all_) std::visit([&](auto& s) { kernels::sum(s, sums, a.outputs[0]); }, stream);
    }

private:
    Shape shape() const { return {static_cast<std::int64_t>(counts_.size())}; }

    std::vector<std::int64_t> counts_;
    bool of_all_;
};

ValueId append(Graph& graph, const std::string& name, const std::vector<ValueId>& values, bool of_all) {
    std::vector<std::int64_t> counts;
    for (const ValueId id : values)
        counts.push_back(graph.value(id).type.shape.count());
    const ValueId blocks = graph.apply_one(std::make_shared<SquareSums>(), name + ".blocks", values);
    return graph.apply_one(std::make_shared<Totals>(std::move(counts), of_all), name, {blocks});
}

} // namespace

ValueId append_tensor_squares(Graph& graph, const std::string& name, const std::vector<ValueId>& values) {
    return append(graph, name, values, false);
}

ValueId append_square_sum(Graph& graph, const std::string& name, const std::vector<ValueId>& values) {
    return append(graph, name, values, true);
}

} // namespace tessera
