// SPDX-License-Identifier: Apache-2.0
// The library's engines for a graph, which of them may run, and the plan that does.
#include "kernels/cuda/cudnn_parts.hpp"
#include "kernels/cuda/device.hpp"
#include "kernels/timer.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <limits>
#include <map>

namespace tessera::cuda {
namespace {

constexpr std::size_t most_finalized =
    24;                                // engines that are made ready in vain, one after another, before ours is taken
constexpr std::size_t tuned_plans = 6; // tried where the stream is to tune
constexpr int timed_runs = 5;

struct DestroyHandle {
    void operator()(cudnnContext* handle) const { cudnnDestroy(handle); }
};

// Of one stream.
struct Library {
    std::unique_ptr<cudnnContext, DestroyHandle> handle;
    std::map<std::vector<std::int64_t>, std::optional<CudnnPlan>> plans;
};

Library& library_of(CudaStream& stream) {
    std::shared_ptr<void>& kept = stream.state().graphs;
    if (!kept) {
        cudnnHandle_t handle = nullptr;
        check_cudnn(cudnnCreate(&handle), "cudnnCreate");
        auto made = std::make_shared<Library>();
        made->handle.reset(handle);
        check_cudnn(cudnnSetStream(handle, stream.state().stream), "cudnnSetStream");
        kept = std::move(made);
    }
    return *static_cast<Library*>(kept.get());
}

} // namespace

struct CudnnTarget::State {
    cudnnHandle_t handle = nullptr;
    std::optional<Descriptor> properties; // in place of a handle
};

struct CudnnPlan::State {
    std::shared_ptr<const CudnnGraph> graph;
    std::shared_ptr<const Descriptor> operations;
    Descriptor configuration, plan;
    std::int64_t workspace_bytes = 0, engine = 0;
    bool tensor_cores = false, compiled = false;
};

namespace {

struct Engine {
    Descriptor configuration{CUDNN_BACKEND_ENGINECFG_DESCRIPTOR};
    std::int64_t number = 0;
    std::vector<cudnnBackendNumericalNote_t> notes;
    std::vector<cudnnBackendBehaviorNote_t> behavior;

    bool has(cudnnBackendNumericalNote_t note) const { return std::ranges::find(notes, note) != notes.end(); }
};

template <class Value> std::vector<Value> values_of(const Descriptor& descriptor, cudnnBackendAttributeName_t name,
                                                    cudnnBackendAttributeType_t type, std::int64_t most) {
    std::vector<Value> values(static_cast<std::size_t>(most));
    std::int64_t count = 0;
    check_cudnn(cudnnBackendGetAttribute(descriptor.get(), name, type, most, &count, values.data()),
                "cudnnBackendGetAttribute");
    values.resize(static_cast<std::size_t>(std::min(count, most)));
    return values;
}

void read_notes(Engine& found) {
    const Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    void* handle = engine.get();
    std::int64_t count = 0;
    check_cudnn(cudnnBackendGetAttribute(found.configuration.get(), CUDNN_ATTR_ENGINECFG_ENGINE,
                                         CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &handle),
                "cudnnBackendGetAttribute");
    found.number = values_of<std::int64_t>(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1).at(0);
    found.notes = values_of<cudnnBackendNumericalNote_t>(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                                         CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
    found.behavior = values_of<cudnnBackendBehaviorNote_t>(engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE,
                                                           CUDNN_TYPE_BEHAVIOR_NOTE, CUDNN_BEHAVIOR_NOTE_TYPE_COUNT);
}

// The library's guesses in one mode, best first; none where it has none.
std::vector<Engine> engines(const CudnnTarget& target, const Descriptor& operations, cudnnBackendHeurMode_t mode) {
    Descriptor guesses(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    guesses.refer(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, operations);
    guesses.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
#if CUDNN_VERSION >= 90800
    if (target.state().properties) guesses.refer(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *target.state().properties);
#endif
    std::int64_t count = 0;
    if (guesses.finalize() != CUDNN_STATUS_SUCCESS ||
        cudnnBackendGetAttribute(guesses.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &count,
                                 nullptr) != CUDNN_STATUS_SUCCESS)
        return {};
    std::vector<Engine> found(static_cast<std::size_t>(count));
    std::vector<void*> handles;
    for (const Engine& engine : found)
        handles.push_back(engine.configuration.get());
    check_cudnn(cudnnBackendGetAttribute(guesses.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                         count, &count, handles.data()),
                "cudnnBackendGetAttribute");
    found.resize(std::min(found.size(), static_cast<std::size_t>(count)));
    for (Engine& engine : found)
        read_notes(engine);
    return found;
}

bool keeps_to(const CudnnLimits& limits, const Engine& engine) {
    for (const auto note :
         {CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
          CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS, CUDNN_NUMERICAL_NOTE_FFT, CUDNN_NUMERICAL_NOTE_WINOGRAD})
        if (engine.has(note)) return false;
    return !limits.full_f32 || !engine.has(CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
}

Descriptor operation_graph(const CudnnTarget& target, const CudnnGraph& graph) {
    Descriptor made(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    std::vector<void*> operations;
    for (const Descriptor& operation : graph.parts().operations)
        operations.push_back(operation.get());
    made.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<std::int64_t>(operations.size()),
             operations.data());
    if (const cudnnHandle_t handle = target.state().handle; handle != nullptr)
        made.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    return made;
}

// What runs the graph by this engine, where it gets ready within the limits.
std::optional<CudnnPlan> ready(const CudnnTarget& target, const std::shared_ptr<const CudnnGraph>& graph,
                               const std::shared_ptr<const Descriptor>& operations, Engine engine,
                               const CudnnLimits& limits) {
    Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    plan.refer(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, engine.configuration);
    if (const cudnnHandle_t handle = target.state().handle; handle != nullptr)
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
#if CUDNN_VERSION >= 90800
    if (target.state().properties) plan.refer(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *target.state().properties);
#endif
    if (plan.finalize() != CUDNN_STATUS_SUCCESS) return {};
    const std::int64_t bytes =
        values_of<std::int64_t>(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1).at(0);
    if (bytes > limits.workspace_bytes) return {};
    const bool compiled =
        std::ranges::find(engine.behavior, CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION) != engine.behavior.end();
    const bool tensor_cores = engine.has(CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
    return CudnnPlan(std::make_shared<CudnnPlan::State>(
        CudnnPlan::State{graph, operations, std::move(engine.configuration), std::move(plan), bytes, engine.number,
                         tensor_cores, compiled}));
}

cudnnStatus_t execute(CudaStream& stream, const CudnnPlan::State& plan, std::span<const CudnnOperand> operands,
                      void* workspace) {
    std::vector<std::int64_t> names;
    std::vector<const void*> addresses;
    for (const CudnnOperand& operand : operands) {
        names.push_back(operand.name);
        addresses.push_back(operand.data);
    }
    for (const auto& constant : plan.graph->parts().constants) {
        names.push_back(constant.name);
        addresses.push_back(&constant.value); // read by this call
    }
    Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, names);
    pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, static_cast<std::int64_t>(addresses.size()),
             addresses.data());
    pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
    if (const cudnnStatus_t status = pack.finalize(); status != CUDNN_STATUS_SUCCESS) return status;
    return cudnnBackendExecute(library_of(stream).handle.get(), plan.plan.get(), pack.get());
}

// Seconds of some runs after a first one, or infinity for what does not run.
double seconds_of(CudaStream& stream, const std::function<bool()>& run) {
    if (!run()) return std::numeric_limits<double>::infinity();
    const auto timer = make_timer(stream);
    timer->mark();
    for (int i = 0; i < timed_runs; ++i)
        run();
    timer->mark();
    return timer->take().at(0);
}

// The plan of the least time, the earlier of two equals; none where `otherwise` takes less.
std::optional<CudnnPlan> fastest(CudaStream& stream, std::span<const CudnnPlan> plans, const CudnnCall& call,
                                 const std::function<void()>& otherwise) {
    double least = seconds_of(stream, [&] { return otherwise(), true; });
    std::optional<CudnnPlan> best;
    for (const CudnnPlan& plan : plans) {
        const double seconds = seconds_of(stream, [&] { return plan.runs(stream, call.operands, call.workspace); });
        if (seconds >= least) continue;
        least = seconds;
        best = plan;
    }
    return best;
}

} // namespace

CudnnTarget::CudnnTarget(CudaStream& stream) : state_(std::make_shared<State>()) {
    state_->handle = library_of(stream).handle.get();
}

CudnnTarget CudnnTarget::described(const std::string& json) {
    CudnnTarget target;
    target.state_ = std::make_shared<State>();
#if CUDNN_VERSION >= 90800
    Descriptor& made = target.state_->properties.emplace(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    made.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, static_cast<std::int64_t>(json.size()),
             json.data());
    check_cudnn(made.finalize(), "cudnnBackendFinalize");
#else
    check_cudnn(CUDNN_STATUS_NOT_SUPPORTED, "a described GPU");
#endif
    return target;
}

std::string CudnnPlan::text() const {
    return fmt::format("engine {}, {} bytes of workspace{}{}", state_->engine, state_->workspace_bytes,
                       state_->tensor_cores ? ", on tensor cores" : "", state_->compiled ? ", compiled for it" : "");
}

bool CudnnPlan::runs(CudaStream& stream, std::span<const CudnnOperand> operands, void* workspace) const {
    return execute(stream, *state_, operands, workspace) == CUDNN_STATUS_SUCCESS;
}

void CudnnPlan::run(CudaStream& stream, std::span<const CudnnOperand> operands, void* workspace) const {
    check_cudnn(execute(stream, *state_, operands, workspace), "cudnnBackendExecute");
}

std::vector<CudnnPlan> cudnn_plans(const CudnnTarget& target, std::shared_ptr<const CudnnGraph> graph,
                                   const CudnnLimits& limits, std::size_t most) {
    std::vector<CudnnPlan> plans;
    if (!graph->parts().supported) return plans;
    const auto operations = std::make_shared<const Descriptor>(operation_graph(target, *graph));
    const cudnnStatus_t status = operations->finalize();
    if (is_unsupported(status)) return plans;
    check_cudnn(status, "cudnnBackendFinalize");
    std::size_t finalized = 0;
    for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
        for (Engine& engine : engines(target, *operations, mode)) {
            if (plans.size() == most || finalized == most_finalized) return plans;
            if (!keeps_to(limits, engine)) continue;
            ++finalized;
            if (auto plan = ready(target, graph, operations, std::move(engine), limits))
                plans.push_back(std::move(*plan));
        }
    return plans;
}

bool run_by_cudnn(CudaStream& stream, const CudnnCall& call, const std::function<void()>& otherwise) {
    Library& library = library_of(stream);
    auto at = library.plans.find(call.key);
    if (at == library.plans.end()) {
        const bool tune = stream.state().options.tune;
        const auto graph = std::make_shared<const CudnnGraph>(call.describe());
        const auto plans = cudnn_plans(CudnnTarget(stream), graph, call.limits, tune ? tuned_plans : 1);
        std::optional<CudnnPlan> chosen;
        if (!plans.empty()) chosen = tune ? fastest(stream, plans, call, otherwise) : plans.front();
        at = library.plans.emplace(call.key, std::move(chosen)).first;
    }
    if (!at->second) return false;
    at->second->run(stream, call.operands, call.workspace);
    return true;
}

} // namespace tessera::cuda
