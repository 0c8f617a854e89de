// SPDX-License-Identifier: Apache-2.0
// What a model is built from: one function per op, alphabetical. Each appends a node to the graph and returns its
// output. One op, one file (core/ops/NAME.cpp), its gradient beside it; core/ops/catalog.cpp lists them for the tests.
#pragma once

#include "core/graph/graph.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/pointwise_loss.hpp"
#include "kernels/rotary.hpp"
#include "kernels/window.hpp"

namespace tessera {

enum class Norm { layer_norm, rms_norm };

// How tokens choose experts (kernels/route.hpp).
struct RouteOptions {
    std::int64_t choices = 1;  // of a token
    std::int64_t capacity = 1; // tokens of a sample that an expert takes
    float balance = 0, z = 0;  // coefficients of the losses beside the loss
};

struct RotaryOptions {
    double theta = 10000;
    kernels::RotaryScaling scaling{};
};

namespace ops {

// How many of the logits' rows are largest at their target (kernels/accuracy.hpp): (..., V), (...) i32 -> scalar f32
ValueId accuracy(Graph&, std::string name, ValueId logits, ValueId targets);
// y = f(x), element by element.
ValueId activation(Graph&, std::string name, Activation function, ValueId x);
// y = a + b, equal shapes and dtypes.
ValueId add(Graph&, std::string name, ValueId a, ValueId b);
// y = x + row for each leading index of x; row has x's last dims: positions (T, C) on x (B, T, C), a bias (C).
ValueId add_rows(Graph&, std::string name, ValueId x, ValueId row);
// y[b,t,h,:] = sum_s softmax_s(q[b,t,h,:] . k[b,s,h,:] / sqrt(D)) v[b,s,h,:]   qkv: (B, T, 3, H, D)  y: (B, T, H, D)
// by group, of R heads that share a head of keys and one of values (kernels/attention.hpp): qkv: (B, T, G, R + 2, D)
// y: (B, T, G, R, D)
ValueId attention(Graph&, std::string name, ValueId qkv, bool causal, bool by_group = false);
// y = the mean over windows (kernels/pooling.hpp)   x: (N, H, W, C)   y: (N, P, Q, C)
ValueId average_pool(Graph&, std::string name, ValueId x, const Window& window, bool count_padding = true);
// y = (x - mean) / sqrt(variance + epsilon) * scale + bias, with mean and variance of each channel, the last dim of x,
// over the rest of the micro-batch (Ioffe and Szegedy 2015); and what a step's micro-batches add up
// (kernels/batch_norm.hpp). x: (N, ..., C)   scale, bias: (C)   moments: (3, C) A micro-batch is what the experiment
// says (training.local_batch_size), whoever computes it: neither the number of ranks nor that of micro-batches changes
// a bit. Ranks that cut its images add up their sums.
struct BatchNormed {
    ValueId y, moments;
};
BatchNormed batch_norm(Graph&, std::string name, ValueId x, ValueId scale, ValueId bias, double epsilon);
// The same with given mean and variance (C); no gradient.
ValueId batch_norm_inference(Graph&, std::string name, ValueId x, ValueId mean, ValueId variance, ValueId scale,
                             ValueId bias, double epsilon);
// In the update phase: mean and variance, which are states, move towards those of the step's micro-batches by the share
// `momentum`; not where the factor is 0, of a step that changes nothing.
void update_running_statistics(Graph&, std::string name, const RunningStatistics& of, ValueId factor);
// The same of a state that becomes what was left. Factor no_value: it always does.
void carry_state(Graph&, std::string name, const CarriedState& of, ValueId factor);
// counts[:,k]: of output k how often it was rightly not there, wrongly there, wrongly not there, rightly there: there
// is what has a logit above 0, or a target above 1/2: (..., K), (..., K) f32 -> (4, K)
ValueId binary_counts(Graph&, std::string name, ValueId logits, ValueId targets);
ValueId cast(Graph&, std::string name, ValueId x, DType dtype);
// x[b,t,:] = sum_j gates[b,t,j] y[slots[b,t,j],:]   y: (E, B, K, C)   gates, slots: (B, T, k)   x: (B, T, C)
ValueId combine(Graph&, std::string name, ValueId y, ValueId gates, ValueId slots);
// y = the inputs side by side in the last dim, of which each has its own width
// (..., C1), (..., C2), … -> (..., C1 + C2 + …)
ValueId concatenate(Graph&, std::string name, std::vector<ValueId> parts);
// counts[t,p]: rows with the target t whose largest logit is number p (kernels/classification.hpp)
// logits: (..., W), of which the first `classes` count   targets: (...) i32   counts: (V, V) f32
ValueId confusion(Graph&, std::string name, ValueId logits, ValueId targets, std::int64_t classes);
// y = x convolved with w in G groups + bias (kernels/convolution.hpp); bias (K) f32 may be no_value
// x: (N, H, W, C)   w: (K, R, S, C / G), the window being R x S   y: (N, P, Q, K)
ValueId convolution(Graph&, std::string name, ValueId x, ValueId w, ValueId bias, const Window& window,
                    std::int64_t groups = 1);
// How many targets are not -1, or what the others' class weights (V) f32 add up to: (...) i32 -> scalar f32
ValueId counted_targets(Graph&, std::string name, ValueId targets, ValueId class_weights = no_value);
// loss = sum of -log softmax(logits)[target] over all positions; the gradient is taken of scale * loss.
// logits: (..., W), of which the first `classes` count   targets: (...) i32, -1 is ignored   scale, loss: scalar f32
ValueId cross_entropy(Graph&, std::string name, ValueId logits, ValueId targets, ValueId scale, std::int64_t classes);
// The same loss for evaluation: no gradient, so no scale.
ValueId cross_entropy_loss(Graph&, std::string name, ValueId logits, ValueId targets, std::int64_t classes);
// y[slots[b,t,j],:] = x[b,t,:], 0 elsewhere   x: (B, T, C)   slots: (B, T, k) i32   y: (E, B, K, C)
ValueId dispatch(Graph&, std::string name, ValueId x, ValueId slots, std::int64_t experts, std::int64_t capacity);
// y = x kept with probability 1 - p and divided by it. x: (B, ...): the same sample is masked alike on any rank.
ValueId dropout(Graph&, std::string name, ValueId x, double probability);
// y = table[token]   tokens: (...) i32   table: (R, C), of which the first `vocabulary` rows count   y: (..., C)
ValueId embedding(Graph&, std::string name, ValueId tokens, ValueId table, std::int64_t vocabulary);
// The gradient of a table: dtable[token] = the sum of its dy, 0 for tokens that there are none of. f32.
ValueId embedding_gradient(Graph&, std::string name, ValueId tokens, ValueId dy, ValueId table,
                           std::int64_t vocabulary);
// y[e] = x[e] w[e]^T + bias[e]   x: (E, ..., C)   w: (E, H, C)   bias: (E, H) f32, may be no_value   y: (E, ..., H)
ValueId expert_linear(Graph&, std::string name, ValueId x, ValueId w, ValueId bias);
// x: (B, ...) -> (B, N), the elements of each sample in a row
ValueId flatten(Graph&, std::string name, ValueId x);
// y = f(gate) * x, element by element: a gated linear unit (Shazeer 2020), with silu SwiGLU.
ValueId gate(Graph&, std::string name, Activation function, ValueId gate, ValueId x);
// The cells of a GRU over T steps (kernels/recurrent.hpp), in D directions, which lie side by side in y. x is what the
// inputs bring to the gates. bias may be no_value, and so may the state before the first step, 0 then.
// x: (B, T, D, 3, H)   w: (D, 3, H, H)   bias: (D, 3, H) f32   y: (B, T, D H)   h: (B, D H) f32, without a gradient
struct GruOutputs {
    ValueId y, h; // h: after the last step
};
GruOutputs gru(Graph&, std::string name, ValueId x, ValueId w, ValueId bias, ValueId h);
// Layer normalisation over the last dim (Ba et al. 2016). bias may be no_value.
ValueId layer_norm(Graph&, std::string name, ValueId x, ValueId scale, ValueId bias, double epsilon);
// targets: (...) i32, -1 where they were `left_out`
ValueId leave_out(Graph&, std::string name, ValueId targets, std::int32_t left_out);
// y = x w^T + bias, summed over the last `contracted` dims of both: x (..., K...), w (N..., K...), y (..., N...).
// bias (N...) f32 may be no_value.
ValueId linear(Graph&, std::string name, ValueId x, ValueId w, ValueId bias, int contracted = 1);
// A matrix of 8 bits: as it lies, (R..., C...), transposed, (C..., R...), and what the numbers are multiplied by (f32).
struct InEightBits {
    ValueId y, transposed, scale;
};
// The same of x and w in 8 bits; y is bf16.
ValueId linear_f8(Graph&, std::string name, const InEightBits& x, const InEightBits& w, ValueId bias,
                  int contracted = 1);
// The cells of an LSTM, likewise.   x: (B, T, D, 4, H)   w: (D, 4, H, H)   bias: (D, 4, H) f32   h, c: (B, D H) f32
struct LstmStates {
    ValueId h = no_value, c = no_value;
};
struct LstmOutputs {
    ValueId y;
    LstmStates last;
};
LstmOutputs lstm(Graph&, std::string name, ValueId x, ValueId w, ValueId bias, const LstmStates& before);
// y = the largest over windows (kernels/pooling.hpp)   x: (N, H, W, C)   y: (N, P, Q, C)
ValueId max_pool(Graph&, std::string name, ValueId x, const Window& window);
// scores[first + n, :] = what row n of a micro-batch is judged by: `columns` logits, and a class + 1 (0: none) or as
// many numbers; the other rows are 0   logits: (..., W)   targets: (...) i32, or (..., columns) f32   first: () i32
// -> (rows, columns + 1) or (rows, 2 columns) f32
ValueId place_scores(Graph&, std::string name, ValueId logits, ValueId targets, ValueId first, std::int64_t rows,
                     std::int64_t columns);
// loss = sum over samples of the mean of a loss of numbers (kernels/pointwise_loss.hpp); the gradient is taken of
// scale * loss. y, targets: (B, ...)   scale, loss: scalar f32; no scale (no_value): for evaluation, without a gradient
ValueId pointwise_loss(Graph&, std::string name, const kernels::PointwiseLoss& loss, ValueId y, ValueId targets,
                       ValueId scale);
// x, f32 or bf16, in f8e4m3 or f8e5m2; the last `column_dims` dims are columns. The scale maps the largest magnitude of
// this tensor to the largest number of the dtype (kernels/quantize.hpp).
InEightBits quantize(Graph&, std::string name, ValueId x, DType dtype, int column_dims);
// sum = a + b and y = its norm, as layer_norm (bias may be no_value) or rms_norm (without bias) of the sum.
struct ResidualNorm {
    ValueId sum, y;
};
ResidualNorm residual_norm(Graph&, std::string name, Norm kind, ValueId a, ValueId b, ValueId scale, ValueId bias,
                           double epsilon);
// Over the samples, of each number: targets, their squares, the errors' squares: y, targets (B, ...) -> (3, K) f32
ValueId regression_sums(Graph&, std::string name, ValueId y, ValueId targets, ValueId centres);
// y = x / sqrt(mean(x^2) + epsilon) * scale over the last dim (Zhang and Sennrich 2019).
ValueId rms_norm(Graph&, std::string name, ValueId x, ValueId scale, double epsilon);
// Queries and keys turned by the angles of their positions (kernels/rotary.hpp), values as they are: qkv as attention
// takes it.
ValueId rotary(Graph&, std::string name, ValueId qkv, const RotaryOptions& options, bool by_group = false);
// A token's choices among the experts, each sample for itself (kernels/route.hpp): logits (B, T, E).
struct Routed {
    ValueId gates, slots; // (B, T, k), f32 and i32
    ValueId loss;         // scalar: of which the gradient is taken beside the loss's
    ValueId losses;       // (3): load balancing, z, dropped choices
};
Routed route(Graph&, std::string name, ValueId logits, const RouteOptions& options);
// y = factor * x
ValueId scale(Graph&, std::string name, ValueId x, double factor);
// As cross_entropy, with a share `smoothing` of each target spread over all classes, and weights of classes (V) f32
// (kernels/smoothed_cross_entropy.hpp), which may be no_value. No scale (no_value): for evaluation, without a gradient.
ValueId smoothed_cross_entropy(Graph&, std::string name, ValueId logits, ValueId targets, ValueId scale,
                               std::int64_t classes, double smoothing, ValueId class_weights);
// Of probabilities of the classes (…, V) f32 in place of targets, in training alone (kernels/soft_cross_entropy.hpp).
ValueId soft_cross_entropy(Graph&, std::string name, ValueId logits, ValueId probabilities, ValueId scale,
                           std::int64_t classes, double smoothing);
// f32 rounded to bf16 by chance, another one in each step: the expected result is x. The gradient is cast's.
ValueId stochastic_cast(Graph&, std::string name, ValueId x);
// y[r...] = sum over the leading dims of x; `dims` trailing dims stay. f32.
ValueId sum_rows(Graph&, std::string name, ValueId x, int dims);
// How many rows have their target among the k largest logits: (..., W), (...) i32 -> scalar f32
ValueId top_k_hits(Graph&, std::string name, ValueId logits, ValueId targets, std::int64_t classes, std::int64_t k);

// The transpose of a convolution with these filters: what is convolved becomes the result (kernels/convolution.hpp, dx
// of dy). Of the height ((P - 1) stride - padding + extent + more), and so the width; bias (C) may be no_value. x: (N,
// P, Q, K)   w: (K, R, S, C / G)   y: (N, H, W, C)
ValueId transposed_convolution(Graph&, std::string name, ValueId x, ValueId w, ValueId bias, const Window& window,
                               std::int64_t groups, std::int64_t more_rows, std::int64_t more_columns);

} // namespace ops

// The ops themselves, with example attributes where they need some, for the catalog.
OpPointer make_accuracy();
OpPointer make_activation(Activation function);
OpPointer make_add();
OpPointer make_add_rows();
OpPointer make_attention(bool causal, bool by_group = false);
OpPointer make_average_pool(const Window& window, bool count_padding);
OpPointer make_batch_norm(double epsilon);
OpPointer make_batch_norm_inference(double epsilon);
OpPointer make_binary_counts();
OpPointer make_cast(DType dtype);
OpPointer make_combine();
OpPointer make_concatenate();
OpPointer make_confusion(std::int64_t classes);
OpPointer make_convolution(const Window& window, std::int64_t groups);
OpPointer make_counted_targets(bool weighted);
OpPointer make_cross_entropy(std::int64_t classes);
OpPointer make_cross_entropy_loss(std::int64_t classes);
OpPointer make_dispatch(std::int64_t experts, std::int64_t capacity);
OpPointer make_dropout(double probability, std::string_view stream_name);
OpPointer make_embedding(std::int64_t vocabulary);
OpPointer make_expert_linear();
OpPointer make_flatten();
OpPointer make_gate(Activation function);
OpPointer make_gru(bool bias, bool states);
OpPointer make_layer_norm(double epsilon);
OpPointer make_leave_out(std::int32_t left_out);
OpPointer make_linear(int contracted);
OpPointer make_lstm(bool bias, bool states);
OpPointer make_max_pool(const Window& window);
OpPointer make_place_scores(std::int64_t rows, std::int64_t columns);
OpPointer make_pointwise_loss(const kernels::PointwiseLoss& loss, bool with_gradient);
OpPointer make_regression_sums();
OpPointer make_residual_norm(Norm kind, double epsilon);
OpPointer make_rms_norm(double epsilon);
OpPointer make_rotary(const RotaryOptions& options, bool by_group);
OpPointer make_route(const RouteOptions& options);
OpPointer make_scale(double factor);
OpPointer make_smoothed_cross_entropy(std::int64_t classes, double smoothing, bool weighted, bool with_gradient);
OpPointer make_soft_cross_entropy(std::int64_t classes, double smoothing);
OpPointer make_sum_rows(int dims);
OpPointer make_top_k_hits(std::int64_t classes, std::int64_t k);
// To images of this height, width and channels.
OpPointer make_transposed_convolution(const Window& window, const Shape& image);

// The slots of the examples of dispatch and combine.
void write_example_slots(const StepState& state, const View& host);

// Every op that a model can use, alphabetical. To be in this list is to be tested: gradient = finite differences,
// sharded = whole, bf16 near f32.
std::vector<OpPointer> op_catalog();

} // namespace tessera
