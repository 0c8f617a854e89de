// SPDX-License-Identifier: Apache-2.0
// The part of cuDNN that kernels/cuda/cudnn_*.cpp call: descriptors that take what the library's documentation names
// and nothing else, engines of every kind that must be passed over before two that may run, and their work on the
// stream.
#include "tests/cuda_emulation/cudnn_descriptors.hpp"
#include "tests/cuda_emulation/runtime/runtime.hpp"
#include "tests/cuda_emulation/settings.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <set>
#include <string>

struct cudnnContext {
    cudaStream_t stream = nullptr;
};

namespace {

using namespace tessera::emulation::cudnn;

thread_local std::string last_error;

cudnnStatus_t refuse(cudnnStatus_t status, const char* why) {
    last_error = why;
    return status;
}

// TESSERA_EMULATION_CUDNN: missing, failing; on one rank of a job: missing@1. Read at each call.
bool is_broken(const std::string& how) {
    const char* wanted = std::getenv("TESSERA_EMULATION_CUDNN");
    const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
    return wanted != nullptr && (wanted == how || wanted == how + "@" + (rank == nullptr ? "0" : rank));
}

std::size_t value_bytes(cudnnBackendAttributeType_t type) {
    switch (type) {
    case CUDNN_TYPE_BOOLEAN:
        return sizeof(bool);
    case CUDNN_TYPE_INT64:
        return sizeof(std::int64_t);
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
        return sizeof(void*);
    default:
        return sizeof(int); // the library's enums, and float
    }
}

// Every descriptor there is: one that is used after its end is found.
std::mutex registry;
std::set<const void*> living;
bool lives(const void* descriptor) {
    const std::lock_guard lock(registry);
    return living.count(descriptor) != 0;
}

template <class Value>
Value& put(Descriptor& descriptor, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, Value value) {
    Attribute& attribute = descriptor.attributes[name];
    attribute = {type, 1, std::vector<std::byte>(sizeof value)};
    std::memcpy(attribute.bytes.data(), &value, sizeof value);
    return *reinterpret_cast<Value*>(attribute.bytes.data());
}

// ---- what descriptors must be when they are finished

cudnnStatus_t finish_tensor(const Descriptor& descriptor) {
    const Tensor tensor(descriptor);
    if (*std::ranges::min_element(tensor.dims) < 1 || *std::ranges::min_element(tensor.strides) < 1)
        return refuse(CUDNN_STATUS_BAD_PARAM, "a tensor with a dim or stride below 1");
    if (tensor.is_virtual && tensor.by_value) return refuse(CUDNN_STATUS_BAD_PARAM, "a tensor of two kinds");
    if (tensor.by_value && tensor.count() != 1) return refuse(CUDNN_STATUS_BAD_PARAM, "a constant of many numbers");
    if (tensor.alignment < 1 || tensor.alignment % static_cast<std::int64_t>(bytes_of(tensor.type)) != 0)
        return refuse(CUDNN_STATUS_BAD_PARAM, "a tensor's alignment");
    if (tensor.count() > std::numeric_limits<int>::max()) return refuse(CUDNN_STATUS_NOT_SUPPORTED_SHAPE, "too large");
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finish_convolution(const Descriptor& descriptor) {
    for (std::size_t i = 0; i < 2; ++i)
        if (descriptor.value<std::int64_t>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, i) < 0 ||
            descriptor.value<std::int64_t>(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, i) < 0 ||
            descriptor.value<std::int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, i) < 1 ||
            descriptor.value<std::int64_t>(CUDNN_ATTR_CONVOLUTION_DILATIONS, i) < 1)
            return refuse(CUDNN_STATUS_BAD_PARAM, "a window with a negative padding, or a stride or dilation below 1");
    if (descriptor.value<std::int64_t>(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS) != 2 ||
        descriptor.value<cudnnConvolutionMode_t>(CUDNN_ATTR_CONVOLUTION_CONV_MODE) != CUDNN_CROSS_CORRELATION ||
        descriptor.value<cudnnDataType_t>(CUDNN_ATTR_CONVOLUTION_COMP_TYPE) != CUDNN_DATA_FLOAT)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "not two dims, a cross-correlation and sums in f32");
    return CUDNN_STATUS_SUCCESS;
}

std::vector<Tensor> inputs_of(const Descriptor& operation) {
    std::vector<Tensor> inputs;
    for (const auto name : operands_of(operation)->inputs)
        if (operation.has(name)) inputs.emplace_back(operation.other(name));
    return inputs;
}
Tensor output_of(const Descriptor& operation) { return Tensor(operation.other(operands_of(operation)->output)); }

bool is_convolution(const Descriptor& operation) {
    return operation.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR ||
           operation.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR ||
           operation.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR;
}

std::vector<const Descriptor*> operations_of(const Descriptor& graph) {
    std::vector<const Descriptor*> operations;
    for (std::int64_t i = 0; i < graph.count(CUDNN_ATTR_OPERATIONGRAPH_OPS); ++i)
        operations.push_back(&graph.other(CUDNN_ATTR_OPERATIONGRAPH_OPS, static_cast<std::size_t>(i)));
    return operations;
}

// One number for one tensor; what is between operations is written once, before it is read.
cudnnStatus_t finish_graph(const Descriptor& graph) {
    std::map<std::int64_t, Dims> known;
    std::set<std::int64_t> written;
    for (const Descriptor* operation : operations_of(graph)) {
        const Tensor output = output_of(*operation);
        for (const Tensor& tensor : inputs_of(*operation)) {
            if (!known.emplace(tensor.number, tensor.dims).second && known[tensor.number] != tensor.dims)
                return refuse(CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES, "two tensors of one number");
            if (tensor.is_virtual && written.count(tensor.number) == 0)
                return refuse(CUDNN_STATUS_BAD_PARAM, "a tensor between operations that none has written");
        }
        if (!known.emplace(output.number, output.dims).second || output.by_value)
            return refuse(CUDNN_STATUS_BAD_PARAM, "a result that is there already");
        written.insert(output.number);
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finish_operation(const Descriptor& operation) {
    return fits(operation) ? CUDNN_STATUS_SUCCESS : refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "operands' shapes");
}

// ---- engines

// Those that must be passed over come first, and what they write is wrong.
struct Kind {
    std::int64_t number;
    std::vector<cudnnBackendNumericalNote_t> notes;
    std::int64_t workspace_bytes;
    bool gets_ready = true, sound = false, tf32 = false;
};
const std::vector<Kind>& kinds(cudnnBackendHeurMode_t mode) {
    constexpr auto tensor_core = CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
    static const std::vector<Kind> best{
        {90, {tensor_core, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC}, 0},
        {91, {CUDNN_NUMERICAL_NOTE_WINOGRAD}, 0},
        {92, {tensor_core, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION}, 0},
        {93, {}, std::int64_t{1} << 40},
        {94, {}, 0, false},
        {2, {tensor_core}, 1280, true, true, true},
    };
    static const std::vector<Kind> rest{{0, {CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP}, 0, true, true, false}};
    return mode == CUDNN_HEUR_MODE_A ? best : rest;
}

bool is_half(cudnnDataType_t type) { return type == CUDNN_DATA_BFLOAT16 || type == CUDNN_DATA_HALF; }

// Channels last, factors of one type, and a result of it; or one between operations, for whole vectors of 16 bits.
bool has_convolution_engines(const Descriptor& operation) {
    const std::vector<Tensor> inputs = inputs_of(operation);
    const Tensor output = output_of(operation);
    for (const Tensor& tensor : {inputs[0], inputs[1], output})
        if (tensor.strides[1] != 1) return false;
    if (inputs[0].type != inputs[1].type) return false;
    if (!output.is_virtual) return output.type == inputs[0].type;
    return !is_half(inputs[0].type) || (inputs[0].dims[1] % 8 == 0 && output.dims[1] % 8 == 0);
}

// Fused attention: factors of 16 bits in memory, heads of whole vectors up to 128.
bool has_attention_engines(const std::vector<const Descriptor*>& operations) {
    for (const Descriptor* operation : operations)
        for (const Tensor& tensor : inputs_of(*operation)) {
            if (operation->type != CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR || tensor.is_virtual) continue;
            const std::int64_t depth = tensor.strides[3] == 1 ? tensor.dims[3] : tensor.dims[2];
            if (!is_half(tensor.type) || depth % 8 != 0 || depth > 128) return false;
        }
    return true;
}

bool has_engines(const Descriptor& graph) {
    const auto operations = operations_of(graph);
    if (is_convolution(*operations[0])) return operations.size() <= 2 && has_convolution_engines(*operations[0]);
    return operations.size() > 5 && has_attention_engines(operations);
}

constexpr auto kind_mode = CUDNN_ATTR_ENGINEHEUR_MODE; // of a configuration: in which list its kind stands
const Kind& kind_of(const Descriptor& configuration) {
    return kinds(configuration.value<cudnnBackendHeurMode_t>(
        kind_mode))[static_cast<std::size_t>(configuration.value<std::int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX))];
}

cudnnStatus_t finish_plan(const Descriptor& plan) {
    const Descriptor& configuration = plan.other(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
    if (!kind_of(configuration).gets_ready) return refuse(CUDNN_STATUS_NOT_SUPPORTED_SHAPE, "not by this engine");
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finish_pack(const Descriptor& pack) {
    if (pack.count(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS) != pack.count(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS))
        return refuse(CUDNN_STATUS_BAD_PARAM, "as many addresses as tensors");
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finish(const Descriptor& descriptor) {
    for (const Rule& rule : rules_of(descriptor))
        if (descriptor.count(rule.name) < rule.least) return refuse(CUDNN_STATUS_BAD_PARAM, "an attribute was not set");
    if (operands_of(descriptor) != nullptr) return finish_operation(descriptor);
    switch (descriptor.type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
        return finish_tensor(descriptor);
    case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR:
        return finish_convolution(descriptor);
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
        return finish_graph(descriptor);
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
        return finish_plan(descriptor);
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
        return finish_pack(descriptor);
    default:
        return CUDNN_STATUS_SUCCESS;
    }
}

// Fills configurations that the caller has made; returns how many there are.
std::int64_t guess(const Descriptor& heuristics, std::int64_t wanted, void** results) {
    const auto mode = heuristics.value<cudnnBackendHeurMode_t>(CUDNN_ATTR_ENGINEHEUR_MODE);
    void* graph = heuristics.value<void*>(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    if (!has_engines(*static_cast<const Descriptor*>(graph))) return 0;
    const auto count = static_cast<std::int64_t>(kinds(mode).size());
    for (std::int64_t i = 0; i < std::min(count, wanted); ++i) {
        Descriptor& configuration = *static_cast<Descriptor*>(results[i]);
        put(configuration, kind_mode, CUDNN_TYPE_HEUR_MODE, mode);
        put(configuration, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, i);
        put(configuration, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, graph);
        configuration.finalized = true;
    }
    return wanted == 0 ? count : std::min(count, wanted);
}

template <class Value> std::int64_t give(const std::vector<Value>& values, std::int64_t wanted, void* results) {
    const std::size_t given = std::min(values.size(), static_cast<std::size_t>(wanted));
    if (given > 0) std::memcpy(results, values.data(), given * sizeof(Value));
    return static_cast<std::int64_t>(values.size());
}

bool lies_on_device(const void* pointer, std::size_t bytes, std::size_t alignment) {
    const tessera::emulation::Memory memory = tessera::emulation::find_memory(pointer);
    const auto at = static_cast<std::size_t>(static_cast<const char*>(pointer) - memory.start);
    return memory.device >= 0 && memory.bytes - at >= bytes &&
           reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0;
}

// The addresses by number; empty where one is missing, or not what its tensor says.
std::map<std::int64_t, void*> addresses(const Descriptor& graph, const Descriptor& pack) {
    std::map<std::int64_t, void*> memory;
    for (std::int64_t i = 0; i < pack.count(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS); ++i)
        memory.emplace(pack.value<std::int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, static_cast<std::size_t>(i)),
                       pack.value<void*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, static_cast<std::size_t>(i)));
    for (const Descriptor* operation : operations_of(graph)) {
        std::vector<Tensor> tensors = inputs_of(*operation);
        tensors.push_back(output_of(*operation));
        for (const Tensor& tensor : tensors) {
            if (tensor.is_virtual) continue;
            const auto at = memory.find(tensor.number);
            if (at == memory.end()) return {};
            const auto bytes = static_cast<std::size_t>(tensor.extent()) * bytes_of(tensor.type);
            const bool there = lies_on_device(at->second, bytes, static_cast<std::size_t>(tensor.alignment));
            if (tensor.by_value ? at->second == nullptr || there : !there) return {};
        }
    }
    return memory;
}

} // namespace

extern "C" {

std::size_t cudnnGetVersion() { return CUDNN_VERSION; }
const char* cudnnGetErrorString(cudnnStatus_t status) {
    return status == CUDNN_STATUS_SUCCESS                                ? "CUDNN_STATUS_SUCCESS"
           : CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_BAD_PARAM     ? "CUDNN_STATUS_BAD_PARAM"
           : CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED ? "CUDNN_STATUS_NOT_SUPPORTED"
           : status == CUDNN_STATUS_NOT_INITIALIZED                      ? "CUDNN_STATUS_NOT_INITIALIZED"
                                                                         : "CUDNN_STATUS_EXECUTION_FAILED";
}
void cudnnGetLastErrorString(char* message, std::size_t most) {
    if (most == 0) return;
    const std::size_t count = std::min(last_error.size(), most - 1);
    std::memcpy(message, last_error.data(), count);
    message[count] = '\0';
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
    if (is_broken("missing")) return refuse(CUDNN_STATUS_NOT_INITIALIZED, "it shall not start");
    *handle = new cudnnContext;
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
    delete handle;
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* handle) {
    auto made = std::make_unique<Descriptor>(Descriptor{.type = type});
    if (rules_of(*made).empty() && type != CUDNN_BACKEND_ENGINECFG_DESCRIPTOR &&
        type != CUDNN_BACKEND_ENGINE_DESCRIPTOR)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "a kind of descriptor that the substitute does not know");
    const std::lock_guard lock(registry);
    living.insert(made.get());
    *handle = made.release();
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t handle) {
    {
        const std::lock_guard lock(registry);
        if (living.erase(handle) == 0) return refuse(CUDNN_STATUS_BAD_PARAM, "no descriptor");
    }
    delete static_cast<Descriptor*>(handle);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t handle, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, std::int64_t count, const void* values) {
    if (!lives(handle)) return refuse(CUDNN_STATUS_BAD_PARAM, "no descriptor");
    auto& descriptor = *static_cast<Descriptor*>(handle);
    if (descriptor.finalized) return refuse(CUDNN_STATUS_BAD_PARAM, "an attribute of a finished descriptor");
    const std::vector<Rule> known = rules_of(descriptor);
    const auto rule = std::ranges::find(known, name, &Rule::name);
    if (rule == known.end()) return refuse(CUDNN_STATUS_NOT_SUPPORTED, "an attribute that this descriptor has not");
    if (rule->type != type) return refuse(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "an attribute of another type");
    if (count < std::max<std::int64_t>(rule->least, 1) || count > rule->most || values == nullptr)
        return refuse(CUDNN_STATUS_BAD_PARAM, "too few or too many values");
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
        for (std::int64_t i = 0; i < count; ++i) {
            const void* other = static_cast<void* const*>(values)[i];
            if (!lives(other) || !static_cast<const Descriptor*>(other)->finalized)
                return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "another descriptor is not finished");
        }
    const auto* bytes = static_cast<const std::byte*>(values);
    descriptor.attributes[name] = {type, count, {bytes, bytes + static_cast<std::size_t>(count) * value_bytes(type)}};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t handle) {
    if (!lives(handle)) return refuse(CUDNN_STATUS_BAD_PARAM, "no descriptor");
    auto& descriptor = *static_cast<Descriptor*>(handle);
    const cudnnStatus_t status = finish(descriptor);
    descriptor.finalized = status == CUDNN_STATUS_SUCCESS;
    return status;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t handle, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t, std::int64_t wanted, std::int64_t* count,
                                       void* values) {
    if (!lives(handle)) return refuse(CUDNN_STATUS_BAD_PARAM, "no descriptor");
    const auto& descriptor = *static_cast<const Descriptor*>(handle);
    if (!descriptor.finalized) return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "a descriptor is not finished");
    switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS:
        *count = guess(descriptor, wanted, static_cast<void**>(values));
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINECFG_ENGINE: {
        auto& engine = *static_cast<Descriptor*>(*static_cast<void**>(values));
        engine.attributes = descriptor.attributes;
        engine.finalized = true;
        *count = 1;
        return CUDNN_STATUS_SUCCESS;
    }
    case CUDNN_ATTR_ENGINE_GLOBAL_INDEX:
        *count = give<std::int64_t>({kind_of(descriptor).number}, wanted, values);
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
        *count = give(kind_of(descriptor).notes, wanted, values);
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE:
        *count = give<cudnnBackendBehaviorNote_t>({CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION}, wanted, values);
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
        *count = give<std::int64_t>(
            {kind_of(descriptor.other(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)).workspace_bytes}, wanted, values);
        return CUDNN_STATUS_SUCCESS;
    default:
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "an attribute that is not to be read");
    }
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
    if (!lives(plan) || !lives(pack)) return refuse(CUDNN_STATUS_BAD_PARAM, "no descriptor");
    if (is_broken("failing")) return refuse(CUDNN_STATUS_EXECUTION_FAILED, "it shall not run");
    const auto& chosen = static_cast<const Descriptor*>(plan)->other(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
    if (!lives(&chosen)) return refuse(CUDNN_STATUS_BAD_PARAM, "a plan whose engine has gone");
    const Descriptor& graph = chosen.other(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    if (!lives(&graph)) return refuse(CUDNN_STATUS_BAD_PARAM, "a plan whose graph has gone");
    const Kind& kind = kind_of(chosen);
    const auto memory = addresses(graph, *static_cast<const Descriptor*>(pack));
    if (memory.empty()) return refuse(CUDNN_STATUS_BAD_PARAM, "an address that a tensor cannot have");
    void* workspace = static_cast<const Descriptor*>(pack)->value<void*>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
    const auto bytes = static_cast<std::size_t>(kind.workspace_bytes);
    if (bytes > 0 && !lies_on_device(workspace, bytes, 256))
        return refuse(CUDNN_STATUS_BAD_PARAM, "a workspace that is too small, or not aligned");
    // Constants are read now, the rest in the stream's order.
    std::map<std::int64_t, void*> there = memory;
    auto constants = std::make_shared<std::map<std::int64_t, float>>();
    for (auto& [number, address] : there)
        if (tessera::emulation::find_memory(address).device < 0)
            address = &constants->emplace(number, *static_cast<const float*>(address)).first->second;
    const auto work = [&graph, &kind, there, constants, workspace, bytes] {
        if (bytes > 0) std::memset(workspace, 0xff, bytes);
        tessera::emulation::slow_down("cudnn", 40);
        if (!kind.sound) throw std::logic_error("cuDNN: an engine ran that nobody may take");
        run(graph, there, kind.tf32);
    };
    return tessera::emulation::submit(handle->stream, work, "cudnnBackendExecute", false) == cudaSuccess
               ? CUDNN_STATUS_SUCCESS
               : CUDNN_STATUS_EXECUTION_FAILED;
}

} // extern "C"
