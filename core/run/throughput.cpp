// SPDX-License-Identifier: Apache-2.0
// Throughput. The model's operations are those of its products and attention, forward and backward, causal half only.
#include "core/run/throughput.hpp"

#include "core/run/weights.hpp"
#include "kernels/peak.hpp"

#include <array>
#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <unistd.h>

namespace tessera {
namespace {

constexpr std::size_t kinds = 4;      // of time, beside the axes
constexpr std::size_t most_slow = 3;  // ranks that are told of
constexpr std::int64_t few_steps = 3; // of which the first ones' warming up is too large a part

std::string host_name() {
    std::array<char, 256> name{};
    return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "an unknown host";
}

// Stages have other layers, and shares of micro-batches may be uneven: ranks are compared with their like.
std::string peers_of(const Experiment& experiment, int rank) {
    const Layout& layout = experiment.train.layout;
    const int stage =
        layout.pipeline_axis < 0 ? 0 : layout.mesh.coordinate(rank)[static_cast<std::size_t>(layout.pipeline_axis)];
    return fmt::format("{} {}", stage, experiment.train.plan.share.size());
}

} // namespace

Throughput::Throughput(const Experiment& experiment, const Ground& ground)
    : flops_per_step_(experiment.train.plan.flops_per_micro_batch *
                      static_cast<double>(experiment.batch.micro_batches)),
      units_per_step_(static_cast<double>(experiment.sizes.units_per_step)), ground_(ground),
      waits_for_stages_(experiment.train.layout.stages() > 1 && std::holds_alternative<CpuStream>(ground.stream)),
      log_every_(Metrics::log_every(ground.config)),
      account_(ground.groups.recorder(), experiment.train.layout.mesh.axis_count() + 1) {
    ground.groups.all().barrier(ground.host); // all ranks measure at once, as they will run
    auto peak = static_cast<float>(std::visit([](auto& s) { return kernels::peak_flops(s); }, ground.stream));
    if (peak == 0) peak = std::numeric_limits<float>::quiet_NaN(); // unknown on one rank is unknown of all
    ground.groups.all().all_reduce(ground.host, View(&peak, {}, DType::f32), Reduction::sum);
    peak_flops_ = peak;
    const std::string mine = host_name() + '\n' + peers_of(experiment, ground.groups.all().rank());
    for (const std::string& text : team_of(ground.groups.all(), ground.host).gather(mine))
        places_.push_back({text.substr(0, text.find('\n')), text.substr(text.find('\n') + 1)});
    name_axes(experiment.train.layout.mesh);
    account_.take(); // what came before
    restart();
}

// On CPUs an axis of all ranks has one communicator with what all ranks decide (groups.hpp), and gives it its name.
void Throughput::name_axes(const Mesh& mesh) {
    if (mesh.size() == 1) return;
    counted_ = {0};
    whole_run_.axes = {"all ranks"};
    for (int axis = 0; axis < mesh.axis_count(); ++axis) {
        if (mesh.axis(axis).size == 1) continue;
        if (&ground_.groups.axis(axis) == &ground_.groups.all()) {
            whole_run_.axes[0] = mesh.axis(axis).name;
        } else {
            counted_.push_back(static_cast<std::size_t>(axis) + 1);
            whole_run_.axes.push_back(mesh.axis(axis).name);
        }
    }
}

void Throughput::restart() { before_ = Clock::now(); }

void Throughput::measure(StepRecord& record, Waited so_far) {
    const Clock::time_point now = Clock::now();
    record.seconds = std::chrono::duration<double>(now - before_).count();
    record.units_per_second = units_per_step_ / record.seconds;
    record.tflops = flops_per_step_ / record.seconds / 1e12;
    if (!std::isnan(peak_flops_)) record.mfu = flops_per_step_ / record.seconds / peak_flops_;
    record.input_wait = so_far.for_input - waited_.for_input;
    if (so_far.for_weights > 0) record.weights_wait = so_far.for_weights - waited_.for_weights;
    if (waits_for_stages_) { // the mean over all ranks
        auto share = static_cast<float>((so_far.for_stages - waited_.for_stages) / record.seconds);
        ground_.groups.all().all_reduce(ground_.host, View(&share, {}, DType::f32), Reduction::sum);
        record.bubble = share / static_cast<float>(ground_.groups.all().size());
    }
    waited_ = so_far;
    ++steps_;
    if (!std::exchange(measured_, true) || record.step % log_every_ == 0 || record.step == record.steps)
        record.times = gather();
    before_ = now;
}

StepTimes Throughput::gather() {
    const RankTimes mine = account_.take();
    Communicator& all = ground_.groups.all();
    const std::size_t axes = counted_.size(), row = kinds + axes + 1;
    std::vector<float> own{static_cast<float>(mine.computing), static_cast<float>(mine.input),
                           static_cast<float>(mine.saving), static_cast<float>(mine.evaluation)};
    for (const std::size_t axis : counted_)
        own.push_back(static_cast<float>(mine.communication[axis]));
    own.push_back(static_cast<float>(waited_.for_input - std::exchange(waited_before_, waited_.for_input)));
    std::vector<float> everybody(row * static_cast<std::size_t>(all.size()));
    const auto count = static_cast<std::int64_t>(row);
    all.all_gather(ground_.host, View(own.data(), {count}, DType::f32),
                   View(everybody.data(), {count * all.size()}, DType::f32));
    StepTimes times{std::exchange(steps_, 0), whole_run_.axes, {}};
    whole_run_.steps += times.steps;
    whole_run_.ranks.resize(static_cast<std::size_t>(all.size()), {0, 0, 0, 0, std::vector<double>(axes), 0});
    for (std::size_t rank = 0; rank < whole_run_.ranks.size(); ++rank) {
        const float* const found = &everybody[rank * row];
        times.ranks.push_back(
            {found[0], found[1], found[2], found[3], {found + kinds, found + kinds + axes}, found[row - 1]});
        RankTimes& sum = whole_run_.ranks[rank];
        sum.computing += times.ranks.back().computing;
        sum.input += times.ranks.back().input;
        sum.saving += times.ranks.back().saving;
        sum.evaluation += times.ranks.back().evaluation;
        sum.waited += times.ranks.back().waited;
        for (std::size_t axis = 0; axis < axes; ++axis)
            sum.communication[axis] += times.ranks.back().communication[axis];
    }
    return times;
}

void Throughput::report(Log& log) {
    gather();
    if (places_.empty() || whole_run_.steps < few_steps) return;
    log.info(mean_times(whole_run_));
    const std::vector<std::string> slow = slow_ranks(whole_run_, places_);
    for (std::size_t i = 0; i < std::min(slow.size(), most_slow); ++i)
        log.info(fmt::format("slow: {}", slow[i]));
    if (slow.size() > most_slow) log.info(fmt::format("slow: and {} more ranks", slow.size() - most_slow));
}

} // namespace tessera
