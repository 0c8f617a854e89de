// SPDX-License-Identifier: Apache-2.0
// The optimizer's step as more graph: gradient norm, clip factor, and one update node for all parameters
// with the same settings.
#pragma once

#include "core/config.hpp"
#include "core/graph/graph.hpp"
#include "core/optimizers/guard.hpp"
#include "core/optimizers/loss_scale.hpp"
#include "core/optimizers/parameter_groups.hpp"

#include <memory>

namespace tessera {

inline constexpr Key<std::string> optimizer_name{
    "optimizer.name", "adamw", "adafactor, adagrad, adam, adamw, lamb, lars, lion, muon, rmsprop or sgd"};
inline constexpr Key<double> optimizer_rate{"optimizer.lr", 1e-3, "learning rate after warm-up"};
inline constexpr Key<double> optimizer_decay{"optimizer.weight_decay", 0.1,
                                             "weight decay, on matrices and tables only"};
inline constexpr Key<double> optimizer_beta1{"optimizer.beta1", 0.9,
                                             "adam, adamw, lamb, lion, muon: decay of the first moment"};
inline constexpr Key<double> optimizer_beta2{
    "optimizer.beta2", 0.95, "adam, adamw, lamb, muon: decay of the second moment; lion: of what is kept"};
inline constexpr Key<double> optimizer_epsilon{"optimizer.eps", 1e-8,
                                               "adagrad, adam, adamw, lamb, muon, rmsprop: added to the root"};
inline constexpr Key<double> optimizer_alpha{"optimizer.alpha", 0.99, "rmsprop: decay of the mean of squares"};
inline constexpr Key<double> optimizer_momentum{"optimizer.momentum", 0.9,
                                                "lars, muon, rmsprop, sgd: momentum; 0: none"};
inline constexpr Key<bool> optimizer_nesterov{"optimizer.nesterov", false, "sgd: Nesterov's momentum"};
inline constexpr Key<double> optimizer_trust{
    "optimizer.trust_coefficient", 1e-3,
    "lars: the size of a step as a share of the weights' norm, before optimizer.lr"};
inline constexpr Key<double> optimizer_threshold{
    "optimizer.clip_threshold", 1,
    "adafactor: the largest root mean square of a tensor's step, before its size and optimizer.lr"};
inline constexpr Key<double> optimizer_decay_power{
    "optimizer.decay_power", 0.8, "adafactor: in step t, squares count for t^-decay_power, those before for the rest"};
inline constexpr Key<double> training_max_norm{"training.max_norm", 1.0,
                                               "clip gradients to this global norm; 0: no clipping"};

// A parameter that learns.
struct Learned {
    ValueId gradient;
    ValueId weight;
    std::vector<ValueId> states{};
};

// What is updated by one node.
struct Alike {
    std::string name; // of the node
    float weight_decay = 0;
    double rate_factor = 1; // of the learning rate
    bool adapted = false;   // what Optimizer::adapts says
    std::vector<Learned> parameters{};
};

class Optimizer {
public:
    virtual ~Optimizer() = default;
    // What is kept of each parameter from step to step; "first_moment" is the value "optimizer.first_moment/PARAMETER".
    virtual std::vector<std::string_view> states() const = 0;
    // Of the parameters that decay.
    virtual float weight_decay() const = 0;
    // Of those that it adapts.
    virtual std::vector<std::string_view> states_of_adapted() const { return states(); }
    // Whether a parameter's steps are those that the optimizer has its name from; others, vectors say, have plain ones.
    virtual bool adapts(const ParameterInfo&) const { return false; }
    // Appends the nodes that update them, by a step input of their name and ".pace", gradients being multiplied by
    // `factor` (scalar).
    virtual void append(Graph& graph, const Alike& alike, ValueId factor) const = 0;
};

// The inputs of an UpdateOp: its lists, behind what is before them.
std::vector<ValueId> update_inputs(ValueId pace, ValueId factor, const std::vector<Learned>& parameters);

std::vector<std::string_view> optimizer_names(); // built in
// From optimizer.name; reads the keys of that optimizer only, so that another one's key counts as unread.
std::unique_ptr<Optimizer> make_optimizer(const Config& config);
std::unique_ptr<Optimizer> make_adafactor(const Config& config);
std::unique_ptr<Optimizer> make_adam(const Config& config, bool decoupled);
std::unique_ptr<Optimizer> make_sgd(const Config& config);
std::unique_ptr<Optimizer> make_adagrad(const Config& config);
std::unique_ptr<Optimizer> make_lamb(const Config& config);
std::unique_ptr<Optimizer> make_lars(const Config& config);
std::unique_ptr<Optimizer> make_lion(const Config& config);
std::unique_ptr<Optimizer> make_muon(const Config& config);
std::unique_ptr<Optimizer> make_rmsprop(const Config& config);

// For these: a key's value, refused unless low <= it < high.
float setting_within(const Config& config, const Key<double>& key, double low, double high);
// The step input of those whose pace is the learning rate alone.
ValueId learning_rate(Graph& graph, std::string name, double rate_factor);

// What stands between gradients and the update.
struct StepControl {
    double max_norm = 0;                   // 0: no clipping
    std::optional<LossScale> loss_scale{}; // the gradients are multiplied by it
    Guard* guard = nullptr;                // null: none; is told where its verdict is
    ValueId loss = no_value;               // for the guard: the step's
    ValueId counted = no_value;            // the weight of the step's targets that count (counted_mean.hpp); none: all
    std::int64_t units_per_step = 1;       // with `counted`
    std::vector<RunningStatistics> running{}; // of batch norms; they and the next change when the weights do
    std::vector<CarriedState> carried{};
    std::vector<ParameterSettings> settings{}; // of each that is trained; empty: none has some of its own
    double ema_decay = 0;                      // of the weights' average (weight_average.hpp); 0: there is none
};

// Appends the update phase for all parameters that are trained, whose gradients are in the order of trained(). Returns
// the global gradient norm before clipping (scalar f32, kept).
ValueId append_optimizer(Graph& graph, const std::vector<ValueId>& gradients, const Optimizer& optimizer,
                         const StepControl& control);

} // namespace tessera
