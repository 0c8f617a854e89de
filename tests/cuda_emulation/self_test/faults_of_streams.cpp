// SPDX-License-Identifier: Apache-2.0
// Faults in what waits for what: streams, events, the host, graphs.
#include "tests/cuda_emulation/self_test/faults.hpp"

#include <cstring>

namespace tessera::emulation {
namespace {

constexpr int count = Trial::count;
constexpr unsigned block = Trial::threads;

__global__ void fill(float* y, float value) {
    if (threadIdx.x < count) y[threadIdx.x] = value;
}
__global__ void copy(const float* x, float* y) {
    if (threadIdx.x < count) y[threadIdx.x] = x[threadIdx.x];
}

class Event {
public:
    explicit Event(Trial& trial) : trial_(trial) {
        trial.check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
    }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    ~Event() { cudaEventDestroy(event_); }
    // `second` goes on when `first` has got here.
    void order(cudaStream_t first, cudaStream_t second) {
        trial_.check(cudaEventRecord(event_, first));
        trial_.check(cudaStreamWaitEvent(second, event_, 0));
    }

private:
    Trial& trial_;
    cudaEvent_t event_ = nullptr;
};

void missing_event(Trial& trial, bool broken) {
    Event event(trial);
    trial.launch(fill, 1, block, 0, trial.scratch, 1.f);
    if (!broken) event.order(trial.stream, trial.other);
    trial.check(cuda::launch_kernel(copy, 1, block, 0, trial.other, trial.scratch, trial.result));
    trial.check(cudaDeviceSynchronize());
}

// Streams that do not block do not wait for the default stream either.
void default_stream_not_waited_for(Trial& trial, bool broken) {
    trial.check(cudaMemset(trial.result, 0, Trial::bytes));
    if (!broken) trial.check(cudaStreamSynchronize(nullptr));
    trial.launch(fill, 1, block, 0, trial.result, 1.f);
}

void reads_before_waiting(Trial& trial, bool broken) {
    trial.launch(fill, 1, block, 0, trial.result, 1.f);
    trial.check(cudaMemcpyAsync(trial.pinned, trial.result, Trial::bytes, cudaMemcpyDeviceToHost, trial.stream));
    if (!broken) trial.check(cudaStreamSynchronize(trial.stream));
    trial.expect(trial.pinned[7] == 1.f);
}

void pinned_memory_reused_early(Trial& trial, bool broken) {
    for (int i = 0; i < count; ++i)
        trial.pinned[i] = 1;
    trial.check(cudaMemcpyAsync(trial.result, trial.pinned, Trial::bytes, cudaMemcpyHostToDevice, trial.stream));
    if (!broken) trial.check(cudaStreamSynchronize(trial.stream));
    std::memset(trial.pinned, 0, Trial::bytes);
}

void host_touches_device_memory(Trial& trial, bool broken) {
    trial.launch(fill, 1, block, 0, trial.result, 1.f);
    trial.check(cudaStreamSynchronize(trial.stream));
    if (broken) *static_cast<volatile float*>(trial.result) = 1.f;
}

void destroyed_stream(Trial& trial, bool broken) {
    cudaStream_t stream = nullptr;
    trial.check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    if (broken) trial.check(cudaStreamDestroy(stream));
    trial.check(cuda::launch_kernel(fill, 1, block, 0, stream, trial.result, 1.f));
    if (!broken) trial.check(cudaStreamDestroy(stream));
}

// Captures what `record` puts on the streams, and launches it.
template <class Record> void as_graph(Trial& trial, const Record& record) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    trial.check(cudaStreamBeginCapture(trial.stream, cudaStreamCaptureModeGlobal));
    record();
    trial.check(cudaStreamEndCapture(trial.stream, &graph));
    if (graph == nullptr) return;
    trial.check(cudaGraphInstantiate(&executable, graph, 0));
    trial.check(cudaGraphDestroy(graph));
    trial.check(cudaGraphLaunch(executable, trial.stream));
    trial.check(cudaStreamSynchronize(trial.stream));
    trial.check(cudaGraphExecDestroy(executable));
}

void graph_without_a_join(Trial& trial, bool broken) {
    Event fork(trial), join(trial);
    as_graph(trial, [&] {
        fork.order(trial.stream, trial.other);
        trial.check(cuda::launch_kernel(fill, 1, block, 0, trial.other, trial.result, 1.f));
        if (!broken) join.order(trial.other, trial.stream);
    });
}

void graph_without_a_dependency(Trial& trial, bool broken) {
    Event fork(trial), filled(trial), join(trial);
    as_graph(trial, [&] {
        fork.order(trial.stream, trial.other);
        trial.launch(fill, 1, block, 0, trial.scratch, 1.f);
        if (!broken) filled.order(trial.stream, trial.other);
        trial.check(cuda::launch_kernel(copy, 1, block, 0, trial.other, trial.scratch, trial.result));
        join.order(trial.other, trial.stream);
    });
}

void waits_in_a_capture(Trial& trial, bool broken) {
    as_graph(trial, [&] {
        trial.launch(fill, 1, block, 0, trial.result, 1.f);
        if (broken) trial.check(cudaStreamSynchronize(trial.stream));
    });
}

void allocates_in_a_capture(Trial& trial, bool broken) {
    void* memory = nullptr;
    if (!broken) trial.check(cudaMalloc(&memory, 16));
    as_graph(trial, [&] {
        trial.launch(fill, 1, block, 0, trial.result, 1.f);
        if (broken) trial.check(cudaMalloc(&memory, 16));
    });
    trial.check(cudaFree(memory));
}

} // namespace

std::vector<Fault> faults_of_streams() {
    return {{"missing_event", missing_event},
            {"default_stream_not_waited_for", default_stream_not_waited_for},
            {"reads_before_waiting", reads_before_waiting},
            {"pinned_memory_reused_early", pinned_memory_reused_early},
            {"host_touches_device_memory", host_touches_device_memory},
            {"destroyed_stream", destroyed_stream},
            {"graph_without_a_join", graph_without_a_join},
            {"graph_without_a_dependency", graph_without_a_dependency},
            {"waits_in_a_capture", waits_in_a_capture},
            {"allocates_in_a_capture", allocates_in_a_capture}};
}

} // namespace tessera::emulation
