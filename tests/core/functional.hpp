// SPDX-License-Identifier: Apache-2.0
// Ops for tests that end a graph: losses that compute their inputs' gradients themselves, as differentiate() wants it.
#pragma once

#include "core/graph/graph.hpp"
#include "core/run/host_copy.hpp"

namespace tessera {

// y, coefficients (f32, y's shape) -> dy = coefficients in y's type, loss = the sum of coefficients * y
class Functional final : public Op {
public:
    std::string_view name() const override { return "functional"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override { return {in[0], {{}, DType::f32}}; }
    std::vector<ValueId> gradient(Graph&, const Node& node, std::span<const ValueId>) const override {
        return {node.outputs[0], no_value};
    }
    void run(Stream& stream, const Operands& a) const override { // on the host, wherever the tensors are
        HostCopy y(stream, a.inputs[0]), coefficients(stream, a.inputs[1]);
        HostCopy dy(stream, a.outputs[0]), loss(stream, a.outputs[1]);
        y.load();
        coefficients.load();
        double sum = 0;
        const auto pass = [&]<class T>() {
            for (std::int64_t i = 0; i < y.view().count(); ++i) {
                const float coefficient = coefficients.view().as<float>()[i];
                sum += static_cast<double>(static_cast<float>(y.view().as<T>()[i])) * coefficient;
                dy.view().as<T>()[i] = T(coefficient);
            }
        };
        if (a.inputs[0].dtype == DType::f32)
            pass.template operator()<float>();
        else if (a.inputs[0].dtype == DType::bf16)
            pass.template operator()<BFloat16>();
        else
            pass.template operator()<Float16>();
        *loss.view().as<float>() = static_cast<float>(sum);
        dy.store();
        loss.store();
    }
};

// a, b -> da = a - 1, db = 2 (b - 1), loss = |a - 1|^2 / 2 + |b - 1|^2
class Quadratic final : public Op {
public:
    std::string_view name() const override { return "quadratic"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        return {in[0], in[1], {{}, DType::f32}};
    }
    std::vector<ValueId> gradient(Graph&, const Node& node, std::span<const ValueId>) const override {
        return {node.outputs[0], node.outputs[1]};
    }
    void run(Stream&, const Operands& a) const override {
        double sum = 0;
        for (std::size_t input = 0; input < 2; ++input)
            for (std::int64_t i = 0; i < a.inputs[input].count(); ++i) {
                const float distance = a.inputs[input].as<float>()[i] - 1;
                a.outputs[input].as<float>()[i] = distance * static_cast<float>(input + 1);
                sum += static_cast<double>(distance) * distance * static_cast<double>(input + 1) / 2;
            }
        *a.outputs[2].as<float>() = static_cast<float>(sum);
    }
};

} // namespace tessera
