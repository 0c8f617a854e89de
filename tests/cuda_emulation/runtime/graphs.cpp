// SPDX-License-Identifier: Apache-2.0
// Capture and graphs: a capture is a list of operations and of which comes after which; a launch puts them on the
// stream again, in any order that respects this where the schedule is shuffled.
#include "tests/cuda_emulation/runtime/state.hpp"

#include "tests/cuda_emulation/settings.hpp"

#include <algorithm>
#include <cstring>

namespace tessera::emulation {
namespace {

// True when each node is, or comes before, one of `last`.
bool all_joined(const std::vector<Node>& nodes, const std::vector<std::size_t>& last) {
    std::vector<bool> reached(nodes.size(), false);
    for (const std::size_t node : last)
        reached[node] = true;
    for (std::size_t i = nodes.size(); i-- > 0;)
        if (reached[i])
            for (const std::size_t before : nodes[i].after)
                reached[before] = true;
    return std::find(reached.begin(), reached.end(), false) == reached.end();
}

// As they were captured; shuffled: at each step any node whose predecessors are through.
std::vector<std::size_t> order_of(const std::vector<Node>& nodes) {
    std::vector<std::size_t> order, ready;
    std::vector<bool> through(nodes.size(), false);
    while (order.size() < nodes.size()) {
        ready.clear();
        for (std::size_t i = 0; i < nodes.size(); ++i)
            if (!through[i] && std::all_of(nodes[i].after.begin(), nodes[i].after.end(),
                                           [&](std::size_t before) { return through[before]; }))
                ready.push_back(i);
        std::size_t choice = 0;
        if (settings().schedule == Schedule::shuffled) {
            std::uint64_t& random = state().random_state;
            random = random * 6364136223846793005ull + 1442695040888963407ull;
            choice = (random >> 33) % ready.size();
        }
        order.push_back(ready[choice]);
        through[ready[choice]] = true;
    }
    return order;
}

void end(const std::shared_ptr<Capture>& capture) {
    for (const cudaStream_t stream : state().streams)
        if (stream->capture == capture) {
            stream->capture = nullptr;
            stream->last.clear();
        }
    state().captures.erase(capture);
}

} // namespace

cudaError_t note(CUstream_st& stream, Operation operation) {
    Capture& capture = *stream.capture;
    if (capture.broken) return report(cudaErrorStreamCaptureInvalidated);
    capture.nodes.push_back({std::move(operation), stream.last});
    stream.last = {capture.nodes.size() - 1};
    return cudaSuccess;
}

cudaError_t break_capture(const std::shared_ptr<Capture>& capture, cudaError_t error) {
    capture->broken = true;
    return report(error);
}

cudaError_t refuse_in_capture() {
    for (const auto& capture : state().captures) {
        const bool own = capture->thread == std::this_thread::get_id();
        if (capture->mode == cudaStreamCaptureModeGlobal || (capture->mode == cudaStreamCaptureModeThreadLocal && own))
            return break_capture(capture, cudaErrorStreamCaptureUnsupported);
    }
    return cudaSuccess;
}

} // namespace tessera::emulation

using namespace tessera::emulation;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    const Locked locked;
    const cudaStream_t on = find_stream(stream);
    if (on == nullptr) return report(cudaErrorInvalidResourceHandle);
    if (on != stream) return report(cudaErrorStreamCaptureUnsupported); // the default stream
    if (on->capture) return report(cudaErrorIllegalState);
    on->capture = std::make_shared<Capture>();
    on->capture->origin = on;
    on->capture->mode = mode;
    on->capture->thread = std::this_thread::get_id();
    on->last.clear();
    state().captures.insert(on->capture);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    const Locked locked;
    *graph = nullptr;
    const cudaStream_t on = find_stream(stream);
    if (on == nullptr) return report(cudaErrorInvalidResourceHandle);
    if (!on->capture) return report(cudaErrorIllegalState);
    const std::shared_ptr<Capture> capture = on->capture;
    if (capture->origin != on) return break_capture(capture, cudaErrorStreamCaptureUnmatched);
    const bool wrong_thread =
        capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id();
    const bool joined = all_joined(capture->nodes, on->last);
    end(capture);
    if (capture->broken) return report(cudaErrorStreamCaptureInvalidated);
    if (wrong_thread) return report(cudaErrorStreamCaptureWrongThread);
    if (!joined) return report(cudaErrorStreamCaptureUnjoined);
    *graph = new CUgraph_st{capture->nodes};
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    const Locked locked;
    const cudaStream_t on = find_stream(stream);
    if (on == nullptr) return report(cudaErrorInvalidResourceHandle);
    *status = !on->capture          ? cudaStreamCaptureStatusNone
              : on->capture->broken ? cudaStreamCaptureStatusInvalidated
                                    : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    const Locked locked;
    if (graph == nullptr) return report(cudaErrorInvalidValue);
    *executable = new CUgraphExec_st{graph->nodes};
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    const Locked locked;
    const cudaStream_t on = find_stream(stream);
    if (on == nullptr) return report(cudaErrorInvalidResourceHandle);
    if (on->capture) return break_capture(on->capture, cudaErrorStreamCaptureUnsupported); // a graph in a graph
    for (const std::size_t node : order_of(executable->nodes))
        if (const cudaError_t error = put(on, executable->nodes[node].operation)) return error;
    return cudaSuccess;
}

// Other arguments for the same operations in the same order.
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t executable, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* info) {
    const Locked locked;
    *info = {};
    info->result = cudaGraphExecUpdateSuccess;
    if (graph->nodes.size() != executable->nodes.size()) info->result = cudaGraphExecUpdateErrorTopologyChanged;
    for (std::size_t i = 0; i < graph->nodes.size() && info->result == cudaGraphExecUpdateSuccess; ++i) {
        const Node &now = graph->nodes[i], &before = executable->nodes[i];
        if (now.after != before.after) info->result = cudaGraphExecUpdateErrorTopologyChanged;
        if (std::strcmp(now.operation.name, before.operation.name) != 0)
            info->result = cudaGraphExecUpdateErrorNodeTypeChanged;
    }
    if (info->result != cudaGraphExecUpdateSuccess) return report(cudaErrorGraphExecUpdateFailure);
    executable->nodes = graph->nodes;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    delete executable;
    return cudaSuccess;
}

} // extern "C"
