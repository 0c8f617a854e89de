// SPDX-License-Identifier: Apache-2.0
// Muon (Jordan et al. 2024): a matrix moves along the orthogonal matrix that is nearest to its momentum, found by five
// Newton-Schulz steps; as Liu et al. 2025 scale it, so that learning rate and decay are AdamW's, which takes vectors,
// tables and the router. The matrix must be whole for that: ranks that hold parts gather the direction, each computes
// the same and takes its part.
#include "kernels/muon.hpp"
#include "core/optimizers/matrices.hpp"
#include "core/optimizers/optimizer.hpp"
#include "kernels/copy.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/matmul.hpp"
#include "kernels/memory.hpp"
#include "kernels/reduce.hpp"

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

double scale_of(const Matrices& of) { return 0.2 * std::sqrt(static_cast<double>(std::max(of.rows, of.columns))); }

class Direction final : public Op { // factor, gradient, velocity -> direction
public:
    explicit Direction(float momentum) : momentum_(momentum) {}
    std::string_view name() const override { return "muon_direction"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[1]}; }
    std::optional<std::vector<Placement>> placed(std::span<const TensorType>,
                                                 std::span<const Placement> inputs) const override {
        const bool fits =
            inputs[0] == Placement::replicate() && inputs[1] == inputs[2] && inputs[1].kind != Placement::Kind::partial;
        return fits ? std::optional(std::vector{inputs[1]}) : std::nullopt;
    }
    std::vector<int> writes() const override { return {2}; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit(
            [&](auto& s) {
                kernels::muon_direction(s, momentum_, a.inputs[0], a.inputs[1], a.inputs[2], a.outputs[0]);
            },
            stream);
    }

private:
    float momentum_;
};

// X -> 3.4445 X - 4.775 (X X') X + 2.0315 (X X')^2 X, five times, from a matrix whose norm is 1; X' X where that is
// smaller.
class NewtonSchulz {
public:
    NewtonSchulz(const Matrices& of)
        : of_(of), wide_(of.rows <= of.columns), square_{.m = of.smaller(),
                                                         .n = of.smaller(),
                                                         .k = std::max(of.rows, of.columns),
                                                         .transpose_a = !wide_,
                                                         .transpose_b = wide_},
          power_{.m = of.smaller(), .n = of.smaller(), .k = of.smaller(), .accumulate = true},
          product_{.m = of.rows, .n = of.columns, .k = of.smaller(), .accumulate = true} {}

    // Two matrices, two of their smaller side, the blocks of a norm and it, and what a product wants.
    std::int64_t workspace_bytes(const Stream& stream) const {
        std::int64_t bytes = 0;
        for (const Matmul& product : {square_, power_, product_})
            bytes = std::max(bytes, std::visit([&](const auto& s) { return matmul_bytes(s, product); }, stream));
        return floats() * bytes_of(DType::f32) + align_up(bytes);
    }

    // The result lies in the workspace.
    View run(Stream& stream, ConstView x, View workspace) const {
        return std::visit([&](auto& s) { return run_on(s, x, workspace); }, stream);
    }

private:
    static constexpr int steps = 5;
    static constexpr float linear = 3.4445f, cubic = -4.775f, quintic = 2.0315f;

    template <class On> static std::int64_t matmul_bytes(const On& stream, const Matmul& product) {
        return kernels::matmul_workspace_bytes(stream, product);
    }

    static std::int64_t padded(std::int64_t count) {
        return align_up(count * bytes_of(DType::f32)) / bytes_of(DType::f32);
    }
    std::int64_t blocks() const { return (of_.elements() + kernels::square_sum_block - 1) / kernels::square_sum_block; }
    std::int64_t floats() const {
        return 2 * padded(of_.elements()) + 2 * padded(of_.smaller() * of_.smaller()) + padded(blocks()) + padded(1);
    }

    template <class On> View run_on(On& stream, ConstView from, View workspace) const {
        auto* next = static_cast<float*>(static_cast<void*>(workspace.memory()));
        const auto take = [&](std::int64_t count) {
            const View view(next, {count}, DType::f32);
            next += padded(count);
            return view;
        };
        View x = take(of_.elements()), other = take(of_.elements());
        const View squares = take(of_.smaller() * of_.smaller()), sum = take(of_.smaller() * of_.smaller());
        const View norms = take(blocks()), norm = take(1);
        const View rest(next, {workspace.bytes() - floats() * bytes_of(DType::f32)}, DType::f8e4m3);
        kernels::cast(stream, from, x);
        kernels::square_sums(stream, {&x, 1}, {&norms, 1});
        kernels::sum(stream, norms, norm);
        kernels::divide_by_norm(stream, x, norm, x);
        for (int step = 0; step < steps; ++step) {
            kernels::matmul(stream, square_, x, x, {}, squares, rest);
            kernels::scale(stream, squares, cubic / quintic, sum); // quintic * sum = cubic * A + quintic * A A
            kernels::matmul(stream, power_, squares, squares, {}, sum, rest);
            kernels::scale(stream, x, linear / quintic, other);
            kernels::matmul(stream, product_, wide_ ? sum : x, wide_ ? x : sum, {}, other, rest);
            kernels::scale(stream, other, quintic, x);
        }
        return x;
    }

    Matrices of_;
    bool wide_;
    Matmul square_, power_, product_;
};

class Step final : public Op { // learning rate, factor, direction, weight
public:
    Step(const Matrices& of, float weight_decay) : of_(of), newton_(of), weight_decay_(weight_decay) {}
    std::string_view name() const override { return "muon"; }
    std::vector<TensorType> infer(std::span<const TensorType>) const override { return {}; }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        const Placement whole = Placement::replicate();
        std::vector<PlacementRule> rules{{{whole, whole, whole, Placement::flat()}, {}}};
        for (int dim = 0; dim < in[3].shape.rank(); ++dim)
            rules.push_back({{whole, whole, whole, Placement::shard(dim)}, {}});
        return rules;
    }
    std::optional<std::vector<Placement>> placed(std::span<const TensorType> types,
                                                 std::span<const Placement> inputs) const override {
        const bool on_a_stage = inputs[3].kind == Placement::Kind::at && inputs[2] == inputs[3];
        return on_a_stage ? std::optional(std::vector<Placement>()) : Op::placed(types, inputs);
    }
    std::vector<int> writes() const override { return {3}; }
    std::int64_t workspace_bytes(const Stream& stream, std::span<const TensorType>,
                                 std::span<const TensorType>) const override {
        return newton_.workspace_bytes(stream);
    }
    double flops(std::span<const TensorType>, std::span<const TensorType>) const override {
        const auto side = static_cast<double>(of_.smaller()), elements = static_cast<double>(of_.elements());
        return static_cast<double>(of_.count) * 5 * (4 * side * elements + 2 * side * side * side);
    }
    void run(Stream& stream, const Operands& a) const override {
        if (a.inputs[3].count() == 0) return;
        for (std::int64_t i = 0; i < of_.count; ++i) {
            const ConstView from(a.inputs[2].as<float>() + i * of_.elements(), {of_.elements()}, DType::f32);
            const View way = newton_.run(stream, from, a.workspace);
            step_along(stream, a, way, i);
        }
    }

private:
    void step_along(Stream& stream, const Operands& a, const View& way, std::int64_t number) const {
        const kernels::MuonStep settings{static_cast<float>(scale_of(of_)), weight_decay_};
        for_each_held(of_, a, 3, [&](std::int64_t matrix, std::int64_t at, std::int64_t held, std::int64_t count) {
            if (matrix != number) return;
            const View weight(a.inputs[3].as<float>() + held, {count}, DType::f32);
            const ConstView direction(way.as<float>() + at, {count}, DType::f32);
            std::visit([&](auto& s) { kernels::muon_step(s, settings, a.inputs[0], a.inputs[1], direction, weight); },
                       stream);
        });
    }

    Matrices of_;
    NewtonSchulz newton_;
    float weight_decay_;
};

class Muon final : public Optimizer {
public:
    Muon(float momentum, std::unique_ptr<Optimizer> others) : momentum_(momentum), others_(std::move(others)) {}
    std::vector<std::string_view> states() const override { return others_->states(); }
    std::vector<std::string_view> states_of_adapted() const override { return {"momentum"}; }
    float weight_decay() const override { return others_->weight_decay(); }
    bool adapts(const ParameterInfo& parameter) const override {
        return parameter.decays && parameter.role != "vocabulary" && parameter.role != "position" &&
               parameter.role != "router";
    }
    void append(Graph& graph, const Alike& alike, ValueId factor) const override {
        if (!alike.adapted) return others_->append(graph, alike, factor);
        const ValueId rate = learning_rate(graph, alike.name + ".pace", alike.rate_factor);
        for (const Learned& one : alike.parameters) {
            const Value weight = graph.value(one.weight);
            const Matrices of = matrices_of(weight);
            const std::string name = alike.name + "." + weight.name;
            const ValueId direction = graph.apply_one(std::make_shared<Direction>(momentum_), name + ".direction",
                                                      {factor, one.gradient, one.states[0]});
            graph.apply(std::make_shared<Step>(of, alike.weight_decay), name, {rate, factor, direction, one.weight});
        }
    }

private:
    float momentum_;
    std::unique_ptr<Optimizer> others_;
};

} // namespace

std::unique_ptr<Optimizer> make_muon(const Config& config) {
    return std::make_unique<Muon>(setting_within(config, optimizer_momentum, 0, 1), make_adam(config, true));
}

} // namespace tessera
