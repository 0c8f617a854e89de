// SPDX-License-Identifier: Apache-2.0
// The one list of strategies. What stands here works and is tested.
#include "parallel/strategies/catalog.hpp"

#include "kernels/error.hpp"
#include "kernels/nearest_name.hpp"
#include "parallel/strategies/context_parallel.hpp"
#include "parallel/strategies/data_parallel.hpp"
#include "parallel/strategies/expert_parallel.hpp"
#include "parallel/strategies/pipeline_parallel.hpp"
#include "parallel/strategies/sample_parallel.hpp"
#include "parallel/strategies/spatial_parallel.hpp"
#include "parallel/strategies/tensor_parallel.hpp"

#include <array>

namespace tessera {
namespace {

using Make = std::unique_ptr<Strategy>(const MeshAxis& axis, const StrategyOptions& options);

std::unique_ptr<Strategy> make_context_parallel(const MeshAxis& axis, const StrategyOptions& options) {
    return std::make_unique<ContextParallel>(axis.name, options.ring);
}

std::unique_ptr<Strategy> make_data_parallel(const MeshAxis& axis, const StrategyOptions& options) {
    return std::make_unique<DataParallel>(axis.name, options.zero_stage);
}

std::unique_ptr<Strategy> make_expert_parallel(const MeshAxis& axis, const StrategyOptions&) {
    return std::make_unique<ExpertParallel>(axis.name, axis.size);
}

std::unique_ptr<Strategy> make_pipeline_parallel(const MeshAxis& axis, const StrategyOptions&) {
    return std::make_unique<PipelineParallel>(axis.name);
}

// What data parallelism shares out, each replica has.
std::unique_ptr<Strategy> make_replica(const MeshAxis& axis, const StrategyOptions&) {
    return std::make_unique<DataParallel>(axis.name, 0);
}

std::unique_ptr<Strategy> make_sample_parallel(const MeshAxis& axis, const StrategyOptions&) {
    return std::make_unique<SampleParallel>(axis.name);
}

std::unique_ptr<Strategy> make_spatial_parallel(const MeshAxis& axis, const StrategyOptions&) {
    return std::make_unique<SpatialParallel>(axis.name, 1);
}

std::unique_ptr<Strategy> make_spatial_width_parallel(const MeshAxis& axis, const StrategyOptions&) {
    return std::make_unique<SpatialParallel>(axis.name, 2);
}

std::unique_ptr<Strategy> make_tensor_parallel(const MeshAxis& axis, const StrategyOptions& options) {
    return std::make_unique<TensorParallel>(axis.name, axis.size, options.sequence_parallel, options.ring);
}

struct Entry {
    std::string_view name;
    Make* make;
};

constexpr std::array catalog = {
    Entry{"context", make_context_parallel}, Entry{"data", make_data_parallel},
    Entry{"expert", make_expert_parallel},   Entry{"pipeline", make_pipeline_parallel},
    Entry{"replica", make_replica},          Entry{"sample", make_sample_parallel},
    Entry{"spatial", make_spatial_parallel}, Entry{"spatial_width", make_spatial_width_parallel},
    Entry{"tensor", make_tensor_parallel},
};

} // namespace

std::vector<std::string_view> strategy_names() {
    std::vector<std::string_view> names;
    for (const Entry& entry : catalog)
        names.push_back(entry.name);
    return names;
}

std::unique_ptr<Strategy> make_strategy(std::string_view name, const MeshAxis& axis, const StrategyOptions& options) {
    for (const Entry& entry : catalog)
        if (entry.name == name) return entry.make(axis, options);
    throw ConfigError(no_such_name("strategy", name, strategy_names()));
}

} // namespace tessera
