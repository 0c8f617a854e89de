// SPDX-License-Identifier: Apache-2.0
// Plans cost milliseconds, so the ways to recompute are tried one after the other.
#include "core/run/memory_limit.hpp"

#include "core/plan/shares.hpp"
#include "core/run/fit.hpp"
#include "core/with_thousands.hpp"
#include "kernels/error.hpp"

#include <array>
#include <charconv>
#include <fmt/format.h>

namespace tessera {
namespace {

struct Unit {
    std::string_view name;
    int bits;
};
constexpr std::array units = {Unit{"B", 0}, Unit{"KiB", 10}, Unit{"MiB", 20}, Unit{"GiB", 30}, Unit{"TiB", 40}};

struct Needed {
    int rank = 0;
    MemoryNeed memory;
};

// One rank for each stage of the pipeline.
std::vector<int> ranks_of_stages(const Layout& layout, int place) {
    std::vector<int> coordinate(static_cast<std::size_t>(layout.mesh.axis_count()), 0);
    coordinate = at_data_place(layout, coordinate, place);
    std::vector<int> ranks;
    for (int stage = 0; stage < layout.stages(); ++stage) {
        if (layout.pipeline_axis >= 0) coordinate[static_cast<std::size_t>(layout.pipeline_axis)] = stage;
        ranks.push_back(layout.mesh.rank(coordinate));
    }
    return ranks;
}

// The rank that needs most, of those that can be it.
Needed most_needed(const Config& config, const RankView& view, const Dataset* dataset, const Stream& stream) {
    const TrainingPlans plans(config, view.ranks, view.one_host, dataset, stream);
    const Layout layout = plans.of(0).train.layout;
    Needed most;
    for (const int place : {0, busiest_place(layout)})
        for (const int rank : ranks_of_stages(layout, place)) {
            const MemoryNeed need = plans.of(rank).memory;
            if (counted_bytes(need, stream) > counted_bytes(most.memory, stream)) most = {rank, need};
        }
    return most;
}

[[noreturn]] void refuse(const Config& config, const Needed& needed, const RankView& view, const Dataset* dataset,
                         const Stream& stream, std::int64_t limit) {
    const RankView there{needed.rank, view.ranks, view.one_host};
    const std::string ways = ways_to_fit(config, there, dataset, stream, limit);
    throw ConfigError(fmt::format(
        "rank {} needs {}, more than run.memory_limit = \"{}\" ({}):\n{}{}{}", needed.rank,
        in_binary_units(counted_bytes(needed.memory, stream)), config.get(run_memory_limit),
        config.where(run_memory_limit.name), memory_table(needed.memory),
        ways.empty() ? "no change of one key makes it fit" : "what makes it fit, the cheapest first:\n", ways));
}

} // namespace

std::optional<std::int64_t> bytes_named(std::string_view text) {
    double number = 0;
    const char* const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
    if (error != std::errc() || !(number > 0)) return std::nullopt;
    std::string_view unit(rest, static_cast<std::size_t>(end - rest));
    if (unit.starts_with(' ')) unit.remove_prefix(1);
    for (const auto& [name, bits] : units)
        if (unit == name && number * static_cast<double>(std::int64_t{1} << bits) < 0x1p62)
            return static_cast<std::int64_t>(number * static_cast<double>(std::int64_t{1} << bits));
    return std::nullopt;
}

std::optional<std::int64_t> memory_limit(const Config& config) {
    const std::string text = config.get(run_memory_limit);
    if (text.empty()) return std::nullopt;
    const std::optional<std::int64_t> bytes = bytes_named(text);
    if (!bytes) config.refuse(run_memory_limit.name, "is no size: say it as 512MiB, 80GiB or 1.5TiB");
    return bytes;
}

std::int64_t counted_bytes(const MemoryNeed& need, const Stream& stream) {
    return std::holds_alternative<CpuStream>(stream) ? need.total() : need.where_the_stream_works();
}

std::string settle_recompute(Config& config, const RankView& view, const Dataset* dataset, const Stream& stream) {
    const std::optional<std::int64_t> limit = memory_limit(config);
    if (config.get(training_recompute) != "auto") return {};
    if (!limit) config.refuse(training_recompute.name, "wants run.memory_limit, the memory of a rank, to go by");
    std::vector<std::string> tried;
    Needed needed;
    for (const char* way : {"none", "selective", "full"}) {
        config.settle(training_recompute.name, std::string(way));
        needed = most_needed(config, view, dataset, stream);
        const std::int64_t bytes = counted_bytes(needed.memory, stream);
        tried.push_back(fmt::format("{} {}", way, in_binary_units(bytes)));
        if (bytes <= *limit)
            return fmt::format("recompute: {}, the least that fits run.memory_limit = {} ({})", way,
                               config.get(run_memory_limit), fmt::join(tried, ", "));
    }
    refuse(config, needed, view, dataset, stream, *limit);
}

void check_limit(const Config& config, const RankView& view, const Dataset* dataset, const Stream& stream) {
    const std::optional<std::int64_t> limit = memory_limit(config);
    if (!limit) return;
    const Needed needed = most_needed(config, view, dataset, stream);
    if (counted_bytes(needed.memory, stream) > *limit) refuse(config, needed, view, dataset, stream, *limit);
}

} // namespace tessera
