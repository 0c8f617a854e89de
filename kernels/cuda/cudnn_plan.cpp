// SPDX-License-Identifier: Apache-2.0
// The library's engines for a graph, which of them may run, and the plan that does.
#include "kernels/cuda/cudnn_parts.hpp"
#include "kernels/cuda/device.hpp"
#include "kernels/error.hpp"
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
    std::unique_ptr<cudnnContext, DestroyHandle> handle; // null: it did not start, and has no plans
    std::map<ChoiceWords, std::optional<CudnnPlan>> plans;
};

// Ends nothing: all that the library does has a kernel of ours.
void note_trouble(CudaStream& stream, cudnnStatus_t status, const char* call) {
    if (std::string& trouble = stream.state().cudnn_trouble; trouble.empty()) trouble = cudnn_failure(status, call);
}

Library& library_of(CudaStream& stream) {
    std::shared_ptr<void>& kept = stream.state().graphs;
    if (!kept) {
        cudnnHandle_t handle = nullptr;
        auto made = std::make_shared<Library>();
        if (const cudnnStatus_t status = cudnnCreate(&handle); status != CUDNN_STATUS_SUCCESS) {
            note_trouble(stream, status, "cudnnCreate");
        } else {
            made->handle.reset(handle);
            check_cudnn(cudnnSetStream(handle, stream.state().stream), "cudnnSetStream");
        }
        kept = std::move(made);
    }
    return *static_cast<Library*>(kept.get());
}

} // namespace

namespace {

// The library's or the machine's fault, and not that of how it was called.
bool is_trouble(cudnnStatus_t status) {
    return status != CUDNN_STATUS_SUCCESS && CUDNN_STATUS_CATEGORY(status) != CUDNN_STATUS_BAD_PARAM;
}

} // namespace

struct CudnnTarget::State {
    cudnnHandle_t handle = nullptr;
    CudaStream* stream = nullptr;
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

// The place of the plan of the least time, the earlier of two equals; none where `otherwise` takes less.
std::optional<std::size_t> fastest(CudaStream& stream, std::span<const CudnnPlan> plans, const CudnnCall& call,
                                   const std::function<void()>& otherwise) {
    double least = seconds_of(stream, [&] { return otherwise(), true; });
    std::optional<std::size_t> best;
    for (std::size_t i = 0; i < plans.size(); ++i) {
        const double seconds = seconds_of(stream, [&] { return plans[i].runs(stream, call.operands, call.workspace); });
        if (seconds >= least) continue;
        least = seconds;
        best = i;
    }
    return best;
}

// The place among the plans within the limits, and its engine: the same numbers mean the same wherever the library and
// the kind of GPU are the same.
struct Choice {
    ChoiceWords words = by_our_kernel;
    std::optional<CudnnPlan> plan{};
};
Choice choice_of(std::span<const CudnnPlan> plans, std::size_t place) {
    const CudnnPlan& plan = plans[place];
    return {{static_cast<std::int64_t>(place), plan.state().engine}, plan};
}

Choice choose(CudaStream& stream, const Library& library, const CudnnCall& call,
              const std::function<void()>& otherwise) {
    const CudaStream::State& state = stream.state();
    const auto settled = state.settled.find(call.key);
    const bool is_settled = settled != state.settled.end();
    if (is_settled && settled->second == by_our_kernel) return {};
    const bool tune = stream.state().options.tune && !state.is_settled;
    const std::size_t most = is_settled ? static_cast<std::size_t>(settled->second.at(0)) + 1 : tune ? tuned_plans : 1;
    std::vector<CudnnPlan> plans;
    if (library.handle != nullptr)
        plans =
            cudnn_plans(CudnnTarget(stream), std::make_shared<const CudnnGraph>(call.describe()), call.limits, most);
    if (is_settled) {
        if (plans.size() == most && choice_of(plans, most - 1).words == settled->second)
            return choice_of(plans, most - 1);
        throw SystemError(fmt::format("cuDNN has no engine {} here, by which other ranks run the same call{}{}",
                                      settled->second.back(), state.cudnn_trouble.empty() ? "" : ": ",
                                      state.cudnn_trouble));
    }
    if (plans.empty()) return {};
    const auto place = tune ? fastest(stream, plans, call, otherwise) : 0;
    return place ? choice_of(plans, *place) : Choice();
}

// The first call: a failure that is not ours leaves the work to our kernel, unless other ranks rely on this one.
bool begins_to_run(CudaStream& stream, const CudnnPlan& plan, const CudnnCall& call) {
    const cudnnStatus_t status = execute(stream, plan.state(), call.operands, call.workspace);
    if (status == CUDNN_STATUS_SUCCESS) return true;
    if (!is_trouble(status) || stream.state().is_settled) check_cudnn(status, "cudnnBackendExecute");
    note_trouble(stream, status, "cudnnBackendExecute");
    return false;
}

} // namespace

CudnnTarget::CudnnTarget(CudaStream& stream) : state_(std::make_shared<State>()) {
    state_->handle = library_of(stream).handle.get();
    state_->stream = &stream;
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

std::size_t cudnn_version() { return cudnnGetVersion(); }

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
    if (CudaStream* stream = target.state().stream; stream != nullptr && is_trouble(status)) {
        note_trouble(*stream, status, "cudnnBackendFinalize");
        return plans;
    }
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
    if (const auto at = library.plans.find(call.key); at != library.plans.end()) {
        if (at->second) at->second->run(stream, call.operands, call.workspace);
        return at->second.has_value();
    }
    Choice choice = choose(stream, library, call, otherwise);
    if (choice.plan && !begins_to_run(stream, *choice.plan, call)) choice = {};
    stream.state().chosen[call.key] = choice.words;
    return library.plans.emplace(call.key, std::move(choice.plan)).first->second.has_value();
}

} // namespace tessera::cuda
