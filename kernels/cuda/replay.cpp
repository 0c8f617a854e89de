// SPDX-License-Identifier: Apache-2.0
// Replay by CUDA graphs, captured from the stream.
#include "kernels/replay.hpp"

#include "kernels/cuda/device.hpp"

namespace tessera {

struct Replay::Record {
    cudaGraphExec_t graph = nullptr;
    ~Record() { cudaGraphExecDestroy(graph); }
};

Replay::Replay() = default;
Replay::Replay(Replay&&) noexcept = default;
Replay& Replay::operator=(Replay&&) noexcept = default;
Replay::~Replay() = default;

namespace {

// The graph of what `work` puts on the stream; destroyed by the caller.
cudaGraph_t capture(cudaStream_t stream, const std::function<void()>& work) {
    cudaGraph_t graph = nullptr;
    cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    try {
        work();
    } catch (...) { // the stream must leave the capture before anything else can use it
        if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph != nullptr) cudaGraphDestroy(graph);
        cudaGetLastError();
        throw;
    }
    cuda::check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    return graph;
}

} // namespace

void Replay::run(CudaStream& stream, const std::function<void()>& work) {
    const cudaStream_t queue = stream.state().stream;
    if (!ran_) {
        ran_ = true;
        work();
        return;
    }
    if (record_ == nullptr) {
        const cudaGraph_t graph = capture(queue, work);
        auto record = std::make_unique<Record>();
        const cudaError_t code = cudaGraphInstantiate(&record->graph, graph, 0);
        cudaGraphDestroy(graph);
        cuda::check(code, "cudaGraphInstantiate");
        record_ = std::move(record);
    }
    cuda::check(cudaGraphLaunch(record_->graph, queue), "cudaGraphLaunch");
}

} // namespace tessera
