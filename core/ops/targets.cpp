// SPDX-License-Identifier: Apache-2.0
// leave_out and counted_targets: which targets a loss counts, and how much they weigh together.
#include "kernels/targets.hpp"
#include "core/graph/attributes.hpp"
#include "core/ops/expect.hpp"
#include "core/ops/ops.hpp"
#include "kernels/reduce.hpp"

namespace tessera {
namespace {

class LeaveOut final : public Op { // targets -> targets, -1 where they were `left_out`
public:
    explicit LeaveOut(std::int32_t left_out) : left_out_(left_out) {}
    std::string_view name() const override { return "leave_out"; }
    Attributes attributes() const override { return {{"left_out", std::int64_t{left_out_}}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_dtype("targets", in[0].dtype, DType::i32);
        return {in[0]};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        return elementwise_rules(in[0].shape.rank(), 1, 1);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::leave_out(s, left_out_, a.inputs[0], a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{4, 6}, DType::i32}, false, 3}}; }

private:
    std::int32_t left_out_;
};

// An example's targets, of which each third is left out.
void write_example_targets(const StepState& state, const View& host) {
    for (std::int64_t i = 0; i < host.count(); ++i)
        host.as<std::int32_t>()[i] = (i + state.step) % 3 == 0 ? kernels::ignore_index : static_cast<int>(i % 5);
}

class CountedTargets final : public Op { // targets [, class weights] -> their weight, all together
public:
    explicit CountedTargets(bool weighted) : weighted_(weighted) {}
    std::string_view name() const override { return "counted_targets"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_dtype("targets", in[0].dtype, DType::i32);
        if (weighted_) expect_dtype("class_weights", in[1].dtype, DType::f32);
        return {{{}, DType::f32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType> in) const override {
        std::vector<PlacementRule> rules;
        for (int dim = 0; dim < in[0].shape.rank(); ++dim) {
            PlacementRule rule{std::vector<Placement>(in.size(), Placement::replicate()), {Placement::partial()}};
            rule.inputs[0] = Placement::shard(dim);
            rules.push_back(std::move(rule));
        }
        return rules;
    }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return in[0].shape.count() * bytes_of(DType::f32);
    }
    void run(Stream& stream, const Operands& a) const override {
        const View weights(a.workspace.memory(), a.inputs[0].shape, DType::f32);
        std::visit(
            [&](auto& s) {
                kernels::target_weights(s, a.inputs[0], weighted_ ? ConstView(a.inputs[1]) : ConstView(), weights);
                kernels::sum(s, weights, a.outputs[0]);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        std::vector<ExampleInput> inputs{{{{4, 6}, DType::i32}, false, 0, 0, write_example_targets}};
        if (weighted_) inputs.push_back({{{5}, DType::f32}, false, 0, 3});
        return inputs;
    }

private:
    bool weighted_;
};

} // namespace

OpPointer make_leave_out(std::int32_t left_out) { return std::make_shared<LeaveOut>(left_out); }
OpPointer make_counted_targets(bool weighted) { return std::make_shared<CountedTargets>(weighted); }

ValueId ops::leave_out(Graph& graph, std::string name, ValueId targets, std::int32_t left_out) {
    return graph.apply_one(make_leave_out(left_out), std::move(name), {targets});
}

ValueId ops::counted_targets(Graph& graph, std::string name, ValueId targets, ValueId class_weights) {
    std::vector<ValueId> inputs{targets};
    if (class_weights != no_value) inputs.push_back(class_weights);
    return graph.apply_one(make_counted_targets(class_weights != no_value), std::move(name), std::move(inputs));
}

} // namespace tessera
