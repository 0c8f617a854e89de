// SPDX-License-Identifier: Apache-2.0
// The nodes of the mean over targets that count.
#include "core/optimizers/counted_mean.hpp"

#include "kernels/targets.hpp"

namespace tessera {
namespace {

class MeanOverCounted final : public Op { // counted, loss, square sum -> ratio, loss, square sum
public:
    explicit MeanOverCounted(std::int64_t units) : units_(static_cast<float>(units)) {}
    std::string_view name() const override { return "mean_over_counted"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0], in[1], in[2]}; }
    void run(Stream& stream, const Operands& a) const override {
        const kernels::CountedMean of{a.inputs[0], a.inputs[1], a.inputs[2], a.outputs[0], a.outputs[1], a.outputs[2]};
        std::visit([&](auto& s) { kernels::mean_over_counted(s, units_, of); }, stream);
    }

private:
    float units_;
};

class Product final : public Op { // a, b -> a * b
public:
    std::string_view name() const override { return "product"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0]}; }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::multiply_scalars(s, a.inputs[0], a.inputs[1], a.outputs[0]); }, stream);
    }
};

} // namespace

CountedMean append_counted_mean(Graph& graph, ValueId counted, ValueId loss, ValueId square_sum,
                                std::int64_t units_per_step) {
    const std::vector<ValueId> made = graph.apply(std::make_shared<MeanOverCounted>(units_per_step),
                                                  "mean_over_counted", {counted, loss, square_sum});
    return {made[0], made[1], made[2]};
}

ValueId append_product(Graph& graph, std::string name, ValueId a, ValueId b) {
    return graph.apply_one(std::make_shared<Product>(), std::move(name), {a, b});
}

} // namespace tessera
