// SPDX-License-Identifier: Apache-2.0
// Events: marks in a stream, waited for by other streams and by the host. In a capture they say which node comes after
// which.
#include "tests/cuda_emulation/runtime/state.hpp"

#include <algorithm>

using namespace tessera::emulation;

namespace {

bool known(cudaEvent_t event) { return state().events.contains(event); }

// An event that a capture recorded is a place in a graph: the host cannot wait for it.
cudaError_t refuse_captured(cudaEvent_t event) {
    if (state().captures.contains(event->capture)) return break_capture(event->capture, cudaErrorCapturedEvent);
    return report(cudaErrorCapturedEvent);
}

cudaError_t wait_in_capture(CUstream_st& stream, const CUevent_st& event) {
    if (!event.capture) return break_capture(stream.capture, cudaErrorStreamCaptureIsolation);
    if (!state().captures.contains(event.capture)) return report(cudaErrorCapturedEvent);
    if (!stream.capture) {
        stream.capture = event.capture;
        stream.last.clear();
    }
    if (stream.capture != event.capture) return break_capture(stream.capture, cudaErrorStreamCaptureMerge);
    for (const std::size_t node : event.nodes)
        if (std::find(stream.last.begin(), stream.last.end(), node) == stream.last.end()) stream.last.push_back(node);
    return cudaSuccess;
}

} // namespace

extern "C" {

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    const Locked locked;
    if (state().broken) return report(state().broken);
    *event = new CUevent_st;
    (*event)->device = current_device();
    (*event)->timed = !(flags & cudaEventDisableTiming);
    state().events.insert(*event);
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    const Locked locked;
    if (state().events.erase(event) == 0) return report(cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const Locked locked;
    const cudaStream_t on = find_stream(stream);
    if (on == nullptr || !known(event) || event->device != on->device) return report(cudaErrorInvalidResourceHandle);
    event->capture = on->capture;
    event->nodes = on->last;
    event->mark = nullptr;
    if (on->capture) return on->capture->broken ? report(cudaErrorStreamCaptureInvalidated) : cudaSuccess;
    event->mark = std::make_shared<Mark>();
    return put(on, {"cudaEventRecord", {}, false, nullptr, event->mark});
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    const Locked locked;
    const cudaStream_t on = find_stream(stream);
    if (on == nullptr || !known(event)) return report(cudaErrorInvalidResourceHandle);
    if (on->capture || event->capture) return wait_in_capture(*on, *event);
    if (!event->mark) return cudaSuccess;
    return put(on, {"cudaStreamWaitEvent", {}, false, event->mark, nullptr});
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    const Locked locked;
    if (!known(event)) return report(cudaErrorInvalidResourceHandle);
    if (event->capture) return refuse_captured(event);
    if (!event->mark || event->mark->done) return report(state().broken);
    progress();
    return cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const Locked locked;
    if (!known(event)) return report(cudaErrorInvalidResourceHandle);
    if (event->capture) return refuse_captured(event);
    return progress_until([mark = event->mark] { return !mark || mark->done; });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
    const Locked locked;
    if (!known(from) || !known(to) || !from->timed || !to->timed || !from->mark || !to->mark)
        return report(cudaErrorInvalidResourceHandle);
    if (!from->mark->done || !to->mark->done) return cudaErrorNotReady;
    *milliseconds = std::chrono::duration<float, std::milli>(to->mark->at - from->mark->at).count();
    return cudaSuccess;
}

} // extern "C"
