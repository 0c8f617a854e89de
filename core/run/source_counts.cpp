// SPDX-License-Identifier: Apache-2.0
// Asks the order of the samples, which needs no memory of those that came.
#include "core/run/source_counts.hpp"

#include "core/data/options.hpp"
#include "core/visible.hpp"
#include "core/with_thousands.hpp"

#include <fmt/format.h>

namespace tessera {

std::vector<SourceCount> count_sources(const Config& config, const Dataset& dataset, const Experiment& experiment,
                                       std::int64_t steps_done) {
    std::vector<SourceCount> counts;
    const std::vector<SourcePart> sources = dataset.sources(Split::train);
    if (sources.empty()) return counts;
    const SampleOrder order(order_options(config, dataset, Split::train, experiment.seed, 0));
    const std::vector<SampleOrder::Progress> progress = order.progress(experiment.ramp.samples_before(steps_done));
    for (std::size_t i = 0; i < sources.size(); ++i)
        counts.push_back(
            {sources[i].name, progress[i].samples, progress[i].samples * dataset.form().units, progress[i].epochs});
    return counts;
}

std::string text_of(const std::vector<SourceCount>& counts, const SampleForm& form) {
    std::string text = "sources:";
    for (const SourceCount& count : counts) {
        const std::string units =
            form.units == 1 ? "" : fmt::format("{} {}s, ", with_thousands(count.units), form.unit);
        text += fmt::format("{} '{}' {} samples ({}{:.2f} epochs)", &count == counts.data() ? "" : ";",
                            visible(count.name), with_thousands(count.samples), units, count.epochs);
    }
    return text;
}

} // namespace tessera
