// SPDX-License-Identifier: Apache-2.0
// The text of a predicted step.
#include "core/run/describe_cost.hpp"

#include "core/config_catalog.hpp"
#include "core/with_thousands.hpp"
#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <functional>

namespace tessera {
namespace {

struct TimePart {
    std::string name;
    double seconds;
};

std::vector<TimePart> parts_of(const StepCost& cost, const Layout& layout) {
    std::vector<TimePart> parts = {{"products", cost.products},
                                   {"attention", cost.attention},
                                   {"other calls", cost.elementwise},
                                   {"optimizer", cost.update}};
    for (int axis = 0; axis < layout.mesh.axis_count(); ++axis)
        if (layout.mesh.axis(axis).size > 1)
            parts.push_back({fmt::format("waiting for {}", layout.mesh.axis(axis).name),
                             cost.waits[static_cast<std::size_t>(axis)]});
    if (cost.bubble > 0) parts.push_back({"bubble", cost.bubble});
    return parts;
}

} // namespace

Machine machine_for(const Config& config, Machine machine) {
    if (config.get(training_dtype) == "tf32") machine.f32_flops = machine.tf32_flops;
    return machine;
}

void settle_for(const Machine& machine, Config& config) {
    if (config.get(run_device) == "auto")
        config.settle(run_device.name, std::string(machine.gpu && built_with_cuda ? "cuda" : "cpu"));
    if (machine.gpu && config.get(parallelism_bucket) == 0) config.settle(parallelism_bucket.name, 25.0);
}

std::vector<int> axes_named(const std::string& names, const Mesh& mesh) {
    std::vector<std::string_view> known;
    for (const KeyInfo& key : known_keys())
        if (key.name.starts_with("parallelism.") && key.name.ends_with("_parallel_degree"))
            known.push_back(key.name.substr(12, key.name.size() - 12 - std::string_view("_parallel_degree").size()));
    known.emplace_back("replica");
    std::vector<int> axes;
    for (const std::string& name : list_items(names)) {
        if (std::ranges::find(known, name) == known.end()) throw ConfigError(no_such_name("mesh axis", name, known));
        for (int axis = 0; axis < mesh.axis_count(); ++axis)
            if (mesh.axis(axis).name == name) axes.push_back(axis);
    }
    return axes;
}

std::string bounds_of(const StepCost& cost, const Layout& layout) {
    std::vector<TimePart> parts = parts_of(cost, layout);
    std::ranges::stable_sort(parts, std::ranges::greater{}, &TimePart::seconds);
    std::vector<std::string> texts;
    for (const TimePart& part : parts)
        if (texts.size() < 2) texts.push_back(fmt::format("{} {:.0f} %", part.name, part.seconds / cost.total() * 100));
    return fmt::format("{}", fmt::join(texts, ", "));
}

std::string describe_cost(const StepCost& cost, const Experiment& experiment, const Machine& machine) {
    std::string text;
    const auto out = std::back_inserter(text);
    fmt::format_to(out, "\nPredicted on {}, milliseconds of a step\n", machine.file);
    const auto line = [&](const std::string& name, double seconds) {
        fmt::format_to(out, "  {:<24}{:>12.4f}  {:>5.1f} %\n", name, seconds * 1e3, seconds / cost.total() * 100);
    };
    for (const TimePart& part : parts_of(cost, experiment.train.layout))
        line(part.name, part.seconds);
    line("step", cost.total());
    if (cost.hidden > 0) fmt::format_to(out, "  {:<24}{:>12.4f}  beside the work\n", "collectives", cost.hidden * 1e3);
    fmt::format_to(out, "  {:.4g} TFLOP/s per rank, {} {}s/s\n", cost.flops_per_second / 1e12,
                   with_thousands(std::llround(static_cast<double>(experiment.sizes.units_per_step) / cost.total())),
                   experiment.sizes.sample.unit);
    return text;
}

} // namespace tessera
