// SPDX-License-Identifier: Apache-2.0
// The substitute of the CUDA runtime: memory, copies, events, graphs, devices, and the errors that it must report.
#include <cuda_language.cuh>
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace tessera {
namespace {

__global__ void add(float* y, float value) { y[threadIdx.x] += value; }

class Stream {
public:
    Stream() { EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    ~Stream() { cudaStreamDestroy(stream_); }
    operator cudaStream_t() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

class Event {
public:
    explicit Event(unsigned flags = cudaEventDefault) {
        EXPECT_EQ(cudaEventCreateWithFlags(&event_, flags), cudaSuccess);
    }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    ~Event() { cudaEventDestroy(event_); }
    operator cudaEvent_t() const { return event_; }

private:
    cudaEvent_t event_ = nullptr;
};

constexpr unsigned count = 64;

class Floats { // zeros on the device
public:
    Floats() {
        EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), count * sizeof(float)), cudaSuccess);
        EXPECT_EQ(cudaMemset(data_, 0, count * sizeof(float)), cudaSuccess);
        EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    }
    Floats(const Floats&) = delete;
    Floats& operator=(const Floats&) = delete;
    ~Floats() { cudaFree(data_); }
    float* data() const { return data_; }
    float first() const {
        float value = -1;
        EXPECT_EQ(cudaMemcpy(&value, data_, sizeof value, cudaMemcpyDefault), cudaSuccess);
        return value;
    }

private:
    float* data_ = nullptr;
};

class EmulatedRuntime : public testing::Test {
protected:
    void TearDown() override { cudaGetLastError(); }

    cudaError_t add_on(cudaStream_t stream, const Floats& y, float value) {
        return cuda::launch_kernel(add, 1, count, 0, stream, y.data(), value);
    }
    // y += values[i] one after the other, as a graph.
    cudaGraph_t graph_of(const Floats& y, const std::vector<float>& values) {
        cudaGraph_t graph = nullptr;
        EXPECT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), cudaSuccess);
        for (const float value : values)
            EXPECT_EQ(add_on(stream_, y, value), cudaSuccess);
        EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
        return graph;
    }

    Stream stream_, other_;
};

TEST_F(EmulatedRuntime, DevicesSayThatTheyAreHopper) {
    int devices = 0, value = 0;
    ASSERT_EQ(cudaGetDeviceCount(&devices), cudaSuccess);
    EXPECT_EQ(devices, 8);
    cudaDeviceProp properties{};
    ASSERT_EQ(cudaGetDeviceProperties(&properties, 7), cudaSuccess);
    EXPECT_EQ(properties.major * 10 + properties.minor, 90);
    EXPECT_EQ(properties.multiProcessorCount, 132);
    ASSERT_EQ(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), cudaSuccess);
    EXPECT_EQ(value, 232448);
    EXPECT_EQ(cudaGetDeviceProperties(&properties, 8), cudaErrorInvalidDevice);
    EXPECT_EQ(cudaSetDevice(-1), cudaErrorInvalidDevice);
    EXPECT_EQ(std::string(cudaGetErrorName(cudaGetLastError())), "cudaErrorInvalidDevice");
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    EXPECT_STREQ(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
}

TEST_F(EmulatedRuntime, MemoryIsCountedForEachDevice) {
    std::size_t before = 0, free = 0, total = 0;
    ASSERT_EQ(cudaMemGetInfo(&before, &total), cudaSuccess);
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, total + 1), cudaErrorMemoryAllocation);
    EXPECT_EQ(memory, nullptr);
    ASSERT_EQ(cudaMalloc(&memory, 1000), cudaSuccess);
    ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
    EXPECT_EQ(before - free, 1000u);
    ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
    ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
    EXPECT_EQ(free, total);
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
    EXPECT_EQ(cudaFree(static_cast<char*>(memory) + 4), cudaErrorInvalidValue);
    EXPECT_EQ(cudaFree(memory), cudaSuccess);
    EXPECT_EQ(cudaFree(memory), cudaErrorInvalidValue);
}

TEST_F(EmulatedRuntime, PointersAreKnownForWhatTheyAre) {
    Floats y;
    float* pinned = nullptr;
    float own = 0;
    ASSERT_EQ(cudaHostAlloc(reinterpret_cast<void**>(&pinned), 64, cudaHostAllocMapped), cudaSuccess);
    const auto type_of = [](const void* pointer) {
        cudaPointerAttributes attributes{};
        EXPECT_EQ(cudaPointerGetAttributes(&attributes, pointer), cudaSuccess);
        return attributes.type;
    };
    EXPECT_EQ(type_of(y.data() + 3), cudaMemoryTypeDevice);
    EXPECT_EQ(type_of(pinned + 3), cudaMemoryTypeHost);
    EXPECT_EQ(type_of(&own), cudaMemoryTypeUnregistered);
    void* seen_by_device = nullptr;
    EXPECT_EQ(cudaHostGetDevicePointer(&seen_by_device, pinned, 0), cudaSuccess);
    EXPECT_EQ(seen_by_device, pinned);
    EXPECT_EQ(cudaHostGetDevicePointer(&seen_by_device, &own, 0), cudaErrorInvalidValue);
    EXPECT_EQ(cudaHostRegister(&own, sizeof own, cudaHostRegisterDefault), cudaSuccess);
    EXPECT_EQ(type_of(&own), cudaMemoryTypeHost);
    EXPECT_EQ(cudaHostUnregister(&own), cudaSuccess);
    EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST_F(EmulatedRuntime, CopiesCheckTheirEndsAndDirection) {
    Floats x, y;
    std::vector<float> values(count, 2);
    const std::size_t bytes = count * sizeof(float);
    EXPECT_EQ(cudaMemcpyAsync(x.data(), values.data(), bytes, cudaMemcpyDefault, stream_), cudaSuccess);
    EXPECT_EQ(cudaMemcpyAsync(y.data(), x.data(), bytes, cudaMemcpyDeviceToDevice, stream_), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(y.first(), 2);
    EXPECT_EQ(cudaMemcpyAsync(y.data(), x.data(), bytes, cudaMemcpyHostToDevice, stream_),
              cudaErrorInvalidMemcpyDirection);
    EXPECT_EQ(cudaMemcpyAsync(y.data() + 1, x.data(), bytes, cudaMemcpyDeviceToDevice, stream_), cudaErrorInvalidValue);
    EXPECT_EQ(cudaMemsetAsync(y.data(), 0, bytes + 1, stream_), cudaErrorInvalidValue);
    EXPECT_EQ(cudaMemcpy2DAsync(y.data(), 16, values.data(), 32, 8, 3, cudaMemcpyDefault, stream_), cudaSuccess);
    EXPECT_EQ(cudaMemcpyAsync(y.data(), x.data(), bytes, cudaMemcpyDeviceToDevice, stream_), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
}

TEST_F(EmulatedRuntime, EventsOrderAndMeasure) {
    Event begin, end, untimed(cudaEventDisableTiming);
    Floats y;
    EXPECT_EQ(cudaEventRecord(begin, stream_), cudaSuccess);
    EXPECT_EQ(add_on(stream_, y, 1), cudaSuccess);
    EXPECT_EQ(cudaEventRecord(end, stream_), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(other_, end, 0), cudaSuccess);
    EXPECT_EQ(add_on(other_, y, 1), cudaSuccess);
    EXPECT_EQ(cudaEventSynchronize(end), cudaSuccess);
    float milliseconds = -1;
    EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, end), cudaSuccess);
    EXPECT_GE(milliseconds, 0);
    EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, untimed), cudaErrorInvalidResourceHandle);
    EXPECT_EQ(cudaStreamSynchronize(other_), cudaSuccess);
    EXPECT_EQ(cudaStreamQuery(other_), cudaSuccess);
    EXPECT_EQ(y.first(), 2);
}

TEST_F(EmulatedRuntime, HostFunctionsRunInTheOrderOfTheStream) {
    Floats y;
    struct Seen {
        const float* at;
        float value;
    } seen{y.data(), -1};
    EXPECT_EQ(add_on(stream_, y, 3), cudaSuccess);
    EXPECT_EQ(cudaLaunchHostFunc(
                  stream_, [](void* data) { static_cast<Seen*>(data)->value = *static_cast<Seen*>(data)->at; }, &seen),
              cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(seen.value, 3);
}

TEST_F(EmulatedRuntime, GraphsAreLaunchedAgainAndUpdated) {
    Floats y;
    const cudaGraph_t twice = graph_of(y, {1, 2}), other = graph_of(y, {10, 20}), once = graph_of(y, {1});
    EXPECT_EQ(y.first(), 0); // nothing has run
    cudaGraphExec_t executable = nullptr;
    ASSERT_EQ(cudaGraphInstantiate(&executable, twice, 0), cudaSuccess);
    EXPECT_EQ(cudaGraphLaunch(executable, stream_), cudaSuccess);
    EXPECT_EQ(cudaGraphLaunch(executable, stream_), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(y.first(), 6);
    cudaGraphExecUpdateResultInfo info{};
    EXPECT_EQ(cudaGraphExecUpdate(executable, other, &info), cudaSuccess);
    EXPECT_EQ(cudaGraphLaunch(executable, stream_), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(y.first(), 36);
    EXPECT_EQ(cudaGraphExecUpdate(executable, once, &info), cudaErrorGraphExecUpdateFailure);
    EXPECT_EQ(info.result, cudaGraphExecUpdateErrorTopologyChanged);
    EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
    for (const cudaGraph_t graph : {twice, other, once})
        EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_F(EmulatedRuntime, WhatACaptureDoesNotAllowEndsIt) {
    Floats y;
    Event event;
    void* memory = nullptr;
    const auto refused = [&](cudaError_t expected, const auto& call) {
        cudaGraph_t graph = nullptr;
        EXPECT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), cudaSuccess);
        EXPECT_EQ(add_on(stream_, y, 1), cudaSuccess);
        EXPECT_EQ(call(), expected);
        EXPECT_EQ(add_on(stream_, y, 1), cudaErrorStreamCaptureInvalidated);
        EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaErrorStreamCaptureInvalidated);
        EXPECT_EQ(graph, nullptr);
    };
    refused(cudaErrorStreamCaptureUnsupported, [&] { return cudaStreamSynchronize(stream_); });
    refused(cudaErrorStreamCaptureUnsupported, [&] { return cudaStreamQuery(stream_); });
    refused(cudaErrorStreamCaptureUnsupported, [&] { return cudaDeviceSynchronize(); });
    refused(cudaErrorStreamCaptureUnsupported, [&] { return cudaMalloc(&memory, 16); });
    refused(cudaErrorStreamCaptureUnsupported, [&] { return cudaFree(y.data()); });
    refused(cudaErrorStreamCaptureUnsupported, [&] { return cudaHostAlloc(&memory, 16, 0); });
    refused(cudaErrorStreamCaptureUnsupported,
            [&] { return cudaMemcpy(y.data(), y.data(), 4, cudaMemcpyDeviceToDevice); });
    refused(cudaErrorStreamCaptureIsolation, [&] {
        EXPECT_EQ(cudaEventRecord(event, other_), cudaSuccess);
        return cudaStreamWaitEvent(stream_, event, 0);
    });
    refused(cudaErrorCapturedEvent, [&] {
        EXPECT_EQ(cudaEventRecord(event, stream_), cudaSuccess);
        return cudaEventSynchronize(event);
    });
}

TEST_F(EmulatedRuntime, ARelaxedCaptureAllowsAllocation) {
    cudaGraph_t graph = nullptr;
    void* memory = nullptr;
    ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), cudaSuccess);
    EXPECT_EQ(cudaMalloc(&memory, 16), cudaSuccess);
    cudaStreamCaptureStatus status{};
    EXPECT_EQ(cudaStreamIsCapturing(stream_, &status), cudaSuccess);
    EXPECT_EQ(status, cudaStreamCaptureStatusActive);
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    EXPECT_EQ(cudaFree(memory), cudaSuccess);
}

TEST_F(EmulatedRuntime, LaunchesKeepTheLimits) {
    Floats y;
    const auto* const function = reinterpret_cast<const void*>(add);
    const auto launch = [&](dim3 grid, dim3 block, std::size_t shared) {
        return cuda::launch_kernel(add, grid, block, shared, stream_, y.data(), 0.f);
    };
    EXPECT_EQ(launch(1, 1025, 0), cudaErrorInvalidConfiguration);
    EXPECT_EQ(launch(dim3(1, 65536), 1, 0), cudaErrorInvalidConfiguration);
    EXPECT_EQ(launch(1, count, 49153), cudaErrorInvalidValue);
    EXPECT_EQ(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, 232449),
              cudaErrorInvalidValue);
    EXPECT_EQ(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, 100000), cudaSuccess);
    EXPECT_EQ(launch(1, count, 100000), cudaSuccess);
    cudaFuncAttributes attributes{};
    EXPECT_EQ(cudaFuncGetAttributes(&attributes, function), cudaSuccess);
    EXPECT_EQ(attributes.maxDynamicSharedSizeBytes, 100000);
    int blocks = 0;
    EXPECT_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, 256, 0), cudaSuccess);
    EXPECT_EQ(blocks, 8);
    EXPECT_EQ(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, 256, 100000), cudaSuccess);
    EXPECT_EQ(blocks, 2);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
}

} // namespace
} // namespace tessera
