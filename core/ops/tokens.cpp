// SPDX-License-Identifier: Apache-2.0
// mask_tokens, token_segments, token_types and shift_tokens: what encoders make of token ids (kernels/tokens.hpp).
#include "kernels/tokens.hpp"
#include "core/graph/attributes.hpp"
#include "core/ops/draws.hpp"
#include "core/ops/encoder_ops.hpp"
#include "core/ops/expect.hpp"
#include "kernels/random.hpp"

namespace tessera {
namespace {

void expect_tokens(const TensorType& tokens) {
    expect_dtype("tokens", tokens.dtype, DType::i32);
    if (tokens.shape.rank() != 2)
        throw ConfigError(fmt::format("tokens is {}, expected (batch, time)", tokens.shape.text()));
}

class MaskTokensOp final : public Op { // tokens, draws -> masked, slots, targets
public:
    MaskTokensOp(const TokenMask& how, std::string_view stream_name)
        : how_(how), stream_(random_key(0, stream_name).stream) {}
    std::string_view name() const override { return "mask_tokens"; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_tokens(in[0]);
        expect_dtype("draws", in[1].dtype, DType::i32);
        expect_shape("draws", in[1].shape, {in[0].shape[0], kernels::draw_words});
        if (how_.chosen < 1 || how_.chosen > in[0].shape[1])
            throw ConfigError(fmt::format("{} of {} tokens", how_.chosen, in[0].shape[1]));
        return {in[0], in[0], {{in[0].shape[0], how_.chosen}, DType::i32}};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        const Placement samples = Placement::shard(0);
        return {{{samples, samples}, {samples, samples, samples}}};
    }
    std::int64_t workspace_bytes(const Stream&, std::span<const TensorType> in,
                                 std::span<const TensorType>) const override {
        return in[0].bytes();
    }
    void run(Stream& stream, const Operands& a) const override {
        const kernels::MaskTokens how{
            stream_, a.inputs[0].shape[0], a.inputs[0].shape[1], how_.chosen, how_.mask, how_.below, how_.kept};
        std::visit(
            [&](auto& s) {
                kernels::mask_tokens(s, how, a.inputs[1], a.inputs[0], a.outputs[0], a.outputs[1], a.outputs[2],
                                     a.workspace);
            },
            stream);
    }
    std::vector<ExampleInput> example() const override {
        return {{{{4, 6}, DType::i32}, false, 9}, {{{4, kernels::draw_words}, DType::i32}, false, 0, 0, write_draws}};
    }

private:
    TokenMask how_;
    std::uint64_t stream_; // of the random key
};

class TokenSegments final : public Op {
public:
    explicit TokenSegments(std::int32_t padding) : padding_(padding) {}
    std::string_view name() const override { return "token_segments"; }
    Attributes attributes() const override { return {{"padding", std::int64_t{padding_}}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_tokens(in[0]);
        return {in[0]};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return elementwise_rules(2, 1, 1);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::token_segments(s, padding_, a.inputs[0], a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{4, 6}, DType::i32}, false, 3}}; }

private:
    std::int32_t padding_;
};

class TokenTypes final : public Op {
public:
    TokenTypes(std::int32_t separator, std::int32_t types) : separator_(separator), types_(types) {}
    std::string_view name() const override { return "token_types"; }
    Attributes attributes() const override {
        return {{"separator", std::int64_t{separator_}}, {"types", std::int64_t{types_}}};
    }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_tokens(in[0]);
        return {in[0]};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return elementwise_rules(1, 1, 1);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::token_types(s, separator_, types_ - 1, a.inputs[0], a.outputs[0]); },
                   stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{4, 6}, DType::i32}, false, 3}}; }

private:
    std::int32_t separator_, types_;
};

class ShiftTokens final : public Op {
public:
    explicit ShiftTokens(std::int32_t first) : first_(first) {}
    std::string_view name() const override { return "shift_tokens"; }
    Attributes attributes() const override { return {{"first", std::int64_t{first_}}}; }
    std::vector<TensorType> infer(std::span<const TensorType> in) const override {
        expect_tokens(in[0]);
        return {in[0]};
    }
    std::vector<PlacementRule> placements(std::span<const TensorType>) const override {
        return elementwise_rules(1, 1, 1);
    }
    void run(Stream& stream, const Operands& a) const override {
        std::visit([&](auto& s) { kernels::shift_tokens(s, first_, a.inputs[0], a.outputs[0]); }, stream);
    }
    std::vector<ExampleInput> example() const override { return {{{{4, 6}, DType::i32}, false, 3}}; }

private:
    std::int32_t first_;
};

} // namespace

OpPointer make_mask_tokens(const TokenMask& how, std::string_view stream_name) {
    return std::make_shared<MaskTokensOp>(how, stream_name);
}
OpPointer make_token_segments(std::int32_t padding) { return std::make_shared<TokenSegments>(padding); }
OpPointer make_token_types(std::int32_t separator, std::int32_t types) {
    return std::make_shared<TokenTypes>(separator, types);
}
OpPointer make_shift_tokens(std::int32_t first) { return std::make_shared<ShiftTokens>(first); }

ops::MaskedTokens ops::mask_tokens(Graph& graph, std::string name, ValueId tokens, const TokenMask& how,
                                   std::int64_t samples_per_step, std::int64_t samples_ahead) {
    OpPointer op = make_mask_tokens(how, name);
    const std::int64_t samples = graph.value(tokens).type.shape[0];
    const auto write = [samples_per_step, samples_ahead](StepState state, const View& host) {
        state.first_sample += state.step * samples_per_step + samples_ahead;
        state.step = 0;
        write_draws(state, host);
    };
    const ValueId places = graph.step_input(name + ".places", {{samples, kernels::draw_words}, DType::i32}, write);
    const std::vector<ValueId> outputs = graph.apply(std::move(op), std::move(name), {tokens, places});
    return {outputs[0], outputs[1], outputs[2]};
}

ValueId ops::token_segments(Graph& graph, std::string name, ValueId tokens, std::int32_t padding) {
    return graph.apply_one(make_token_segments(padding), std::move(name), {tokens});
}

ValueId ops::token_types(Graph& graph, std::string name, ValueId tokens, std::int32_t separator, std::int32_t types) {
    return graph.apply_one(make_token_types(separator, types), std::move(name), {tokens});
}

ValueId ops::shift_tokens(Graph& graph, std::string name, ValueId tokens, std::int32_t first) {
    return graph.apply_one(make_shift_tokens(first), std::move(name), {tokens});
}

} // namespace tessera
