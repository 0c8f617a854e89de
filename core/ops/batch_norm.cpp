// SPDX-License-Identifier: Apache-2.0
// batch_norm: normalisation of each channel over the samples and pixels of a micro-batch, and its gradient. Where ranks
// hold some of the samples or strips of the images, what they sum over these is added up between steps of the same ops.
#include "kernels/batch_norm.hpp"
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/copy.hpp"
#include "kernels/memory.hpp"
#include "kernels/reduce.hpp"

#include <algorithm>
#include <array>

namespace tessera {
namespace {

// Statistics are (1, C), what is summed for the gradient is (2, C): dim 0 stands for the micro-batch. Ranks that share
// out micro-batches have Shard(0) of all values of theirs, and so each has statistics of its own. Of a micro-batch
// whose samples are shared out, the statistics are sums over all of its ranks.
const Placement whole = Placement::replicate();
const Placement own = Placement::shard(0), channel_of_statistics = Placement::shard(1);

// Of a rank's own micro-batch, but for the weights, inputs [begin, end).
PlacementRule own_rule(std::size_t inputs, std::size_t begin, std::size_t end, std::vector<Placement> outputs) {
    PlacementRule rule{std::vector<Placement>(inputs, own), std::move(outputs)};
    std::fill(rule.inputs.begin() + static_cast<std::ptrdiff_t>(begin),
              rule.inputs.begin() + static_cast<std::ptrdiff_t>(end), whole);
    return rule;
}

// How many rows of channels the logical image has that input 0 is a part of.
std::int64_t rows_of(const Operands& a) {
    const Shape& part = a.inputs[0].shape;
    const Shape& all = a.locality == nullptr ? part : a.locality->wholes[0];
    return all.count(0, all.rank() - 1);
}

std::int64_t columns_of(const TensorType& x) { return x.shape[-1]; }
std::int64_t local_rows(const TensorType& x) { return x.shape.count(0, x.shape.rank() - 1); }
Placement channel_of(const TensorType& x) { return Placement::shard(x.shape.rank() - 1); }

// Samples or pixels, that the statistics are of.
bool cuts_rows(const TensorType& x, Placement at) {
    return at.kind == Placement::Kind::shard && at.value + 1 < x.shape.rank();
}

// Rules for each dim but the channels of input 0 and the first `images` inputs.
std::vector<PlacementRule> row_rules(const TensorType& x, std::size_t inputs, std::size_t images,
                                     const std::function<std::vector<Placement>(Placement)>& outputs) {
    std::vector<PlacementRule> rules;
    for (int dim = 0; dim + 1 < x.shape.rank(); ++dim) {
        PlacementRule rule{std::vector<Placement>(inputs), outputs(Placement::shard(dim))};
        std::fill_n(rule.inputs.begin(), images, Placement::shard(dim));
        rules.push_back(std::move(rule));
    }
    return rules;
}

std::int64_t workspace_for(const Stream& stream, const TensorType& x) {
    return std::visit(
        [&](const auto& s) {
            return std::max(kernels::batch_norm_workspace_bytes(s, local_rows(x), columns_of(x)),
                            kernels::sum_rows_workspace_bytes(s, local_rows(x), columns_of(x)));
        },
        stream);
}

// x, scale, bias[, sums] -> the sums, or of known sums the squares, over this rank's rows.
class ChannelStatistic final : public Op {
public:
    std::string_view name() const override { return "channel_statistic"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return {{{1, columns_of(in[0])}, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return row_rules(in[0], in.size(), 1, [](Placement) { return std::vector{Placement::partial()}; });
    }
    std::vector<PlacementRule> micro_batch_rules(std::span<const TensorType> in) const override {
        return {own_rule(in.size(), 1, 3, {own})};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return workspace_for(stream, in[0]);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                if (a.inputs.size() == 3)
                    kernels::sum_rows(s, a.inputs[0], a.outputs[0], a.workspace);
                else
                    kernels::centered_squares(s, a.inputs[0], a.inputs[3], rows_of(a), a.outputs[0], a.workspace);
            },
            stream);
    }
};

// x, scale, bias[, sums[, squares]] -> y, sums, squares. What is not given is found.
class BatchNorm final : public Op {
public:
    explicit BatchNorm(double epsilon) : epsilon_(static_cast<float>(epsilon)) {}
    std::string_view name() const override { return "batch_norm"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_floating("x", in[0].dtype);
        expect_dims("x", in[0], 2);
        const Shape channels{in[0].shape[-1]}, statistics{1, in[0].shape[-1]};
        for (std::size_t i = 1; i < in.size(); ++i) {
            const std::string_view what = i == 1 ? "scale" : i == 2 ? "bias" : "a statistic";
            expect_shape(what, in[i].shape, i < 3 ? channels : statistics);
            expect_dtype(what, in[i].dtype, DType::f32);
        }
        return {in[0], {statistics, DType::f32}, {statistics, DType::f32}};
    }
    std::vector<ValueId> gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const override;
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules{{std::vector<Placement>(in.size(), channel_of_statistics),
                                          {channel_of(in[0]), channel_of_statistics, channel_of_statistics}}};
        rules[0].inputs[0] = channel_of(in[0]);
        rules[0].inputs[1] = rules[0].inputs[2] = Placement::shard(0);
        if (in.size() < 5) return rules;
        auto more = row_rules(in[0], in.size(), 1, [](Placement at) { return std::vector{at, whole, whole}; });
        rules.insert(rules.end(), more.begin(), more.end());
        return rules;
    }
    std::vector<PlacementRule> micro_batch_rules(std::span<const TensorType> in) const override {
        return {own_rule(in.size(), 1, 3, {own, own, own})};
    }
    std::optional<Halves> halves(std::span<const TensorType> types, std::span<const Placement> inputs,
                                 int /*ranks*/) const override {
        if (types.size() == 5 || !cuts_rows(types[0], inputs[0])) return std::nullopt;
        return Halves{std::make_shared<ChannelStatistic>(), std::make_shared<BatchNorm>(epsilon_)};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return in.size() == 5 ? 0 : workspace_for(stream, in[0]);
    }
    void run(Stream& stream, const Operands& a) const override {
        const View &sums = a.outputs[1], &squares = a.outputs[2];
        const std::int64_t rows = rows_of(a);
        std::visit(
            [&](auto& s) {
                if (a.inputs.size() > 3)
                    kernels::cast(s, a.inputs[3], sums);
                else
                    kernels::sum_rows(s, a.inputs[0], sums, a.workspace);
                if (a.inputs.size() > 4)
                    kernels::cast(s, a.inputs[4], squares);
                else
                    kernels::centered_squares(s, a.inputs[0], sums, rows, squares, a.workspace);
                kernels::batch_norm(s, a.inputs[0], sums, squares, rows, a.inputs[1], a.inputs[2], epsilon_,
                                    a.outputs[0]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{3, 5, 4, 6}, DType::f32}}, {{{6}, DType::f32}, true, 0, 1.0}, {{{6}, DType::f32}}};
    }

private:
    float epsilon_;
};

// dy, x, sums, squares, scale -> what this rank's rows add to (dscale, dbias), (2, C)
class GradientSums final : public Op {
public:
    explicit GradientSums(float epsilon) : epsilon_(epsilon) {}
    std::string_view name() const override { return "batch_norm_gradient_sums"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return {{{2, columns_of(in[0])}, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return row_rules(in[0], in.size(), 2, [](Placement) { return std::vector{Placement::partial()}; });
    }
    std::vector<PlacementRule> micro_batch_rules(std::span<const TensorType> in) const override {
        return {own_rule(in.size(), 4, 5, {own})};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return workspace_for(stream, in[0]);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::batch_norm_gradient_sums(s, a.inputs[0], a.inputs[1], a.inputs[2], a.inputs[3], rows_of(a),
                                                  epsilon_, a.outputs[0], a.workspace);
            },
            stream);
    }

private:
    float epsilon_;
};

// dy, x, sums, squares, scale[, dsums] -> dx, dscale, dbias
class BatchNormGradient final : public Op {
public:
    explicit BatchNormGradient(float epsilon) : epsilon_(epsilon) {}
    std::string_view name() const override { return "batch_norm_gradient"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return {in[1], {in[4].shape, DType::f32}, {in[4].shape, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const Placement channel = channel_of(in[0]), first = Placement::shard(0);
        std::vector<PlacementRule> rules{
            {{channel, channel, channel_of_statistics, channel_of_statistics, first}, {channel, first, first}}};
        if (in.size() < 6) return rules;
        rules[0].inputs.push_back(channel_of_statistics);
        auto more = row_rules(in[0], in.size(), 2, [](Placement at) { return std::vector{at, whole, whole}; });
        rules.insert(rules.end(), more.begin(), more.end());
        return rules;
    }
    std::vector<PlacementRule> micro_batch_rules(std::span<const TensorType> in) const override {
        return {own_rule(in.size(), 4, 5, {own, Placement::partial(), Placement::partial()})};
    }
    std::optional<Halves> halves(std::span<const TensorType> types, std::span<const Placement> inputs,
                                 int /*ranks*/) const override {
        if (types.size() == 6 || (!cuts_rows(types[0], inputs[0]) && !cuts_rows(types[1], inputs[1])))
            return std::nullopt;
        return Halves{std::make_shared<GradientSums>(epsilon_), std::make_shared<BatchNormGradient>(epsilon_)};
    }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return align_up(2 * columns_of(in[0]) * bytes_of(DType::f32)) +
               (in.size() == 6 ? 0 : workspace_for(stream, in[0]));
    }
    void run(Stream& stream, const Operands& a) const override {
        const std::int64_t rows = rows_of(a), columns = a.inputs[4].count();
        auto* memory = static_cast<std::byte*>(a.workspace.memory());
        const std::int64_t behind = align_up(2 * columns * bytes_of(DType::f32));
        const View rest(memory + behind, {a.workspace.bytes() - behind}, DType::f8e4m3);
        const View found(memory, {2, columns}, DType::f32);
        const View& dsums = a.inputs.size() == 6 ? a.inputs[5] : found;
        const auto row = [&](std::int64_t i) { return View(dsums.as<float>() + i * columns, {columns}, DType::f32); };
        std::visit(
            [&](auto& s) {
                if (a.inputs.size() < 6)
                    kernels::batch_norm_gradient_sums(s, a.inputs[0], a.inputs[1], a.inputs[2], a.inputs[3], rows,
                                                      epsilon_, found, rest);
                kernels::batch_norm_gradient(s, a.inputs[0], a.inputs[1], a.inputs[2], a.inputs[3], rows, a.inputs[4],
                                             dsums, epsilon_, a.outputs[0]);
                kernels::cast(s, row(0), a.outputs[1]);
                kernels::cast(s, row(1), a.outputs[2]);
            },
            stream);
    }

private:
    float epsilon_;
};

std::vector<ValueId> BatchNorm::gradient(Graph& graph, const Node& node, std::span<const ValueId> dy) const {
    return graph.apply(std::make_shared<BatchNormGradient>(epsilon_), node.name + ".gradient",
                       {dy[0], node.inputs[0], node.outputs[1], node.outputs[2], node.inputs[1]});
}

class BatchMoments final : public Op { // sums, squares over so many rows -> moments
public:
    explicit BatchMoments(std::int64_t rows) : rows_(rows) {}
    std::string_view name() const override { return "batch_moments"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return {{{3, columns_of(in[0])}, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return {{{channel_of_statistics, channel_of_statistics}, {channel_of_statistics}}};
    }
    std::vector<PlacementRule> micro_batch_rules(std::span<const TensorType> in) const override {
        return {own_rule(in.size(), 0, 0, {Placement::partial()})}; // summed over micro-batches
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::batch_moments(s, a.inputs[0], a.inputs[1], rows_, a.outputs[0]); }, stream);
    }

private:
    std::int64_t rows_;
};

class UpdateRunning final : public Op { // moments, factor, mean, variance ->
public:
    explicit UpdateRunning(double momentum) : momentum_(static_cast<float>(momentum)) {}
    std::string_view name() const override { return "update_running_statistics"; }
    std::vector<TensorType> infer(std::span<const TensorType>) const override { return {}; }
    std::vector<int> writes() const override { return {2, 3}; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::running_statistics(s, a.inputs[0], a.inputs[1], momentum_, a.inputs[2], a.inputs[3]);
            },
            stream);
    }

private:
    float momentum_;
};

class BatchNormInference final : public Op { // x, mean, variance, scale, bias -> y
public:
    explicit BatchNormInference(double epsilon) : epsilon_(static_cast<float>(epsilon)) {}
    std::string_view name() const override { return "batch_norm_inference"; }
    Attributes attributes() const override { return {{"epsilon", epsilon_}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        constexpr std::array names = {"x", "mean", "variance", "scale", "bias"};
        expect_floating("x", in[0].dtype);
        expect_dims("x", in[0], 2);
        for (std::size_t i = 1; i < in.size(); ++i) {
            expect_shape(names.at(i), in[i].shape, {in[0].shape[-1]});
            expect_dtype(names.at(i), in[i].dtype, DType::f32);
        }
        return {in[0]};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim < in[0].shape.rank(); ++dim) {
            const bool channel = dim + 1 == in[0].shape.rank();
            PlacementRule rule{std::vector<Placement>(in.size(), channel ? Placement::shard(0) : whole),
                               {Placement::shard(dim)}};
            rule.inputs[0] = Placement::shard(dim);
            rules.push_back(std::move(rule));
        }
        return rules;
    }
    int in_place_input() const override { return 0; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::batch_norm(s, a.inputs[0], a.inputs[1], a.inputs[2], 1, a.inputs[3], a.inputs[4], epsilon_,
                                    a.outputs[0]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        const TensorType channels{{6}, DType::f32};
        return {{{{3, 5, 4, 6}, DType::f32}, false},
                {channels, false},
                {channels, false, 0, 8.0}, // a variance is positive
                {channels, false, 0, 1.0},
                {channels, false}};
    }

private:
    float epsilon_;
};

} // namespace

OpPointer make_batch_norm(double epsilon) { return std::make_shared<BatchNorm>(epsilon); }
OpPointer make_batch_norm_inference(double epsilon) { return std::make_shared<BatchNormInference>(epsilon); }

ops::BatchNormed ops::batch_norm(Graph& graph, std::string name, ValueId x, ValueId scale, ValueId bias,
                                 double epsilon) {
    const std::string of_moments = name + ".moments";
    const std::vector<ValueId> made = graph.apply(make_batch_norm(epsilon), std::move(name), {x, scale, bias});
    const std::int64_t rows = local_rows(graph.value(x).type);
    return {made[0], graph.apply_one(std::make_shared<BatchMoments>(rows), of_moments, {made[1], made[2]})};
}

ValueId ops::batch_norm_inference(Graph& graph, std::string name, ValueId x, ValueId mean, ValueId variance,
                                  ValueId scale, ValueId bias, double epsilon) {
    return graph.apply_one(make_batch_norm_inference(epsilon), std::move(name), {x, mean, variance, scale, bias});
}

void ops::update_running_statistics(Graph& graph, std::string name, const RunningStatistics& of, ValueId factor) {
    graph.apply(std::make_shared<UpdateRunning>(of.momentum), std::move(name),
                {of.moments, factor, of.mean, of.variance});
}

} // namespace tessera
