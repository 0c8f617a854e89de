// SPDX-License-Identifier: Apache-2.0
// Adafactor (Shazeer and Stern 2018), without a first moment: of a matrix's squares only the means of rows and columns
// are kept. They are means over the whole matrix: ranks that hold parts of its gradient gather it, each computes the
// same, and takes its part of the step.
#include "kernels/adafactor.hpp"
#include "core/optimizers/matrices.hpp"
#include "core/optimizers/optimizer.hpp"
#include "core/optimizers/square_sums.hpp"
#include "kernels/memory.hpp"
#include "kernels/reduce.hpp"

#include <cmath>
#include <cstring>
#include <fmt/format.h>

namespace tessera {
namespace {

// pace, factor, squares of all weights, gradient, squares by row and by column, weight
class AdafactorUpdate final : public Op {
public:
    AdafactorUpdate(const Matrices& of, std::int64_t counted, const kernels::AdafactorStep& settings,
                    std::int64_t place)
        : of_(of), matrix_{of.rows, counted, of.columns}, settings_(settings), place_(place) {}
    std::string_view name() const override { return "adafactor"; }
    std::vector<TensorType> infer(std::span<const TensorType>) const override { return {}; }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        const auto add = [&](Placement of_weight) {
            PlacementRule rule{std::vector<Placement>(in.size(), Placement::replicate()), {}};
            rule.inputs[weight] = of_weight;
            rules.push_back(std::move(rule));
        };
        add(Placement::flat());
        for (int dim = 0; dim < in[weight].shape.rank(); ++dim)
            add(Placement::shard(dim));
        return rules;
    }
    std::optional<std::vector<Placement>> placed(std::span<const TensorType> types,
                                                 std::span<const Placement> inputs) const override {
        bool on_a_stage = inputs[weight].kind == Placement::Kind::at;
        for (std::size_t i = gradient; i < weight; ++i)
            on_a_stage = on_a_stage && inputs[i] == inputs[weight];
        return on_a_stage ? std::optional(std::vector<Placement>()) : Op::placed(types, inputs);
    }
    std::vector<int> writes() const override { return {rows, columns, weight}; }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType>,
                                 std::span<const TensorType>) const override {
        return (padded(elements()) + padded(blocks()) + 2 * padded(1)) * bytes_of(DType::f32);
    }
    void run(Stream& stream, const Operands& a) const override {
        if (a.inputs[gradient].count() == 0) return; // on another stage
        std::visit([&](auto& s) { run_on(s, a); }, stream);
    }

private:
    enum : std::size_t { pace, factor, weight_squares, gradient, rows, columns, weight };

    static std::int64_t padded(std::int64_t count) {
        return align_up(count * bytes_of(DType::f32)) / bytes_of(DType::f32);
    }
    std::int64_t elements() const { return of_.count * of_.elements(); }
    std::int64_t blocks() const { return (elements() + kernels::square_sum_block - 1) / kernels::square_sum_block; }

    static View part(const View& of, std::int64_t first, std::int64_t count) {
        return {of.as<float>() + first, {count}, DType::f32};
    }

    template <class On> void run_on(On& stream, const Operands& a) const {
        const View all(a.workspace.memory(), {padded(elements()) + padded(blocks()) + 2 * padded(1)}, DType::f32);
        const View direction = part(all, 0, elements()), sums = part(all, padded(elements()), blocks());
        const View sum = part(all, padded(elements()) + padded(blocks()), 1);
        const View mean = part(all, padded(elements()) + padded(blocks()) + padded(1), 1);
        for (std::int64_t i = 0; i < of_.count; ++i) {
            const View of_matrix = part(a.inputs[gradient], i * of_.elements(), of_.elements());
            const kernels::AdafactorSquares squares{part(a.inputs[rows], i * of_.rows, of_.rows),
                                                    part(a.inputs[columns], i * of_.columns, of_.columns), mean};
            kernels::adafactor_squares(stream, matrix_, a.inputs[pace], a.inputs[factor], of_matrix, squares);
            kernels::adafactor_direction(stream, matrix_, a.inputs[factor], of_matrix, squares,
                                         part(direction, i * of_.elements(), of_.elements()));
        }
        kernels::square_sums(stream, {&direction, 1}, {&sums, 1});
        kernels::sum(stream, sums, sum);
        for_each_held(of_, a, weight, [&](std::int64_t i, std::int64_t at, std::int64_t held, std::int64_t count) {
            kernels::adafactor_step(
                stream, settings_, a.inputs[pace], a.inputs[factor], part(a.inputs[weight_squares], place_, 1), sum,
                part(direction, i * of_.elements() + at, count), part(a.inputs[weight], held, count));
        });
    }

    Matrices of_;
    kernels::AdafactorMatrix matrix_;
    kernels::AdafactorStep settings_;
    std::int64_t place_; // of the weight among those whose squares are given
};

class Adafactor final : public Optimizer {
public:
    Adafactor(float threshold, float weight_decay, double power)
        : threshold_(threshold), weight_decay_(weight_decay), power_(power) {}
    std::vector<std::string_view> states() const override { return {}; } // of a parameter's shape
    float weight_decay() const override { return weight_decay_; }
    void append(Graph& graph, const Alike& alike, ValueId factor) const override {
        const auto of_step = [power = power_, by = alike.rate_factor](const StepState& state, const View& host) {
            const auto step = static_cast<double>(state.step + 1 - state.skipped_steps);
            const kernels::AdafactorPace pace{static_cast<float>(state.learning_rate * by),
                                              static_cast<float>(std::pow(step, -power))};
            std::memcpy(host.memory(), &pace, sizeof pace);
        };
        const ValueId pace =
            graph.step_input(alike.name + ".pace", {{kernels::adafactor_pace_count}, DType::f32}, of_step);
        std::vector<ValueId> weights;
        for (const Learned& one : alike.parameters)
            weights.push_back(one.weight);
        const ValueId squares = append_tensor_squares(graph, alike.name + ".weight_squares", weights);
        for (std::size_t i = 0; i < weights.size(); ++i) {
            const Value weight = graph.value(weights[i]);
            const Matrices of = matrices_of(weight);
            const std::int64_t padded_from = weight.parameter->rows;
            const kernels::AdafactorStep settings{static_cast<float>(weight.shape_outside().count()), threshold_,
                                                  alike.weight_decay};
            const auto state = [&](std::string_view what, std::int64_t count) {
                return graph.optimizer_state(fmt::format("optimizer.{}/{}", what, weight.name), {of.count, count}, 0);
            };
            const ValueId rows = state("row_squares", of.rows), columns = state("column_squares", of.columns);
            graph.apply(std::make_shared<AdafactorUpdate>(of, padded_from > 0 ? padded_from : of.rows, settings,
                                                          static_cast<std::int64_t>(i)),
                        alike.name + "." + weight.name,
                        {pace, factor, squares, alike.parameters[i].gradient, rows, columns, weights[i]});
        }
    }

private:
    float threshold_, weight_decay_;
    double power_;
};

} // namespace

std::unique_ptr<Optimizer> make_adafactor(const Config& config) {
    const float threshold = setting_within(config, optimizer_threshold, 0, 1e6);
    if (threshold == 0) config.refuse(optimizer_threshold.name, "must be above 0");
    const float power = setting_within(config, optimizer_decay_power, 0, 1);
    if (power == 0) config.refuse(optimizer_decay_power.name, "must be above 0");
    return std::make_unique<Adafactor>(threshold, setting_within(config, optimizer_decay, 0, 1e3),
                                       config.get(optimizer_decay_power));
}

} // namespace tessera
