// SPDX-License-Identifier: Apache-2.0
// Throughput. The model's operations are those of its products and attention, forward and backward, causal half only.
#include "core/run/throughput.hpp"

#include "kernels/peak.hpp"

#include <cmath>
#include <limits>

namespace tessera {

Throughput::Throughput(const Experiment& experiment, const Ground& ground)
    : flops_per_step_(experiment.train.plan.flops_per_micro_batch *
                      static_cast<double>(experiment.batch.micro_batches)),
      units_per_step_(static_cast<double>(experiment.sizes.units_per_step)), ground_(ground),
      waits_for_stages_(experiment.train.layout.stages() > 1 && std::holds_alternative<CpuStream>(ground.stream)) {
    ground.groups.all().barrier(ground.host); // all ranks measure at once, as they will run
    auto peak = static_cast<float>(std::visit([](auto& s) { return kernels::peak_flops(s); }, ground.stream));
    if (peak == 0) peak = std::numeric_limits<float>::quiet_NaN(); // unknown on one rank is unknown of all
    ground.groups.all().all_reduce(ground.host, View(&peak, {}, DType::f32), Reduction::sum);
    peak_flops_ = peak;
    restart();
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
    before_ = now;
}

} // namespace tessera
