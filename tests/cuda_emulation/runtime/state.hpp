// SPDX-License-Identifier: Apache-2.0
// What the substitute of the CUDA runtime remembers, and the few functions that its files share.
#pragma once

#include "tests/cuda_emulation/runtime/device_memory.hpp"
#include "tests/cuda_emulation/runtime/lock.hpp"
#include "tests/cuda_emulation/runtime/runtime.hpp"

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace tessera::emulation {

struct Mark { // one recording of an event
    bool done = false;
    std::chrono::steady_clock::time_point at;
};

struct Operation {
    const char* name = "";
    std::function<void()> work; // empty: it only waits or records
    bool ordered = false;
    std::shared_ptr<Mark> wait_for, record;
    std::uint64_t sequence = 0;
};

struct Node { // of a graph
    Operation operation;
    std::vector<std::size_t> after; // the nodes that come before it
};

struct Capture {
    std::vector<Node> nodes;
    cudaStream_t origin = nullptr;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    std::thread::id thread;
    bool broken = false; // by a call that is not allowed
};

} // namespace tessera::emulation

struct CUgraph_st {
    std::vector<tessera::emulation::Node> nodes;
};
struct CUgraphExec_st {
    std::vector<tessera::emulation::Node> nodes;
};
struct CUstream_st {
    int device = 0;
    bool blocking = true; // takes turns with the default stream
    std::deque<tessera::emulation::Operation> queue;
    std::shared_ptr<tessera::emulation::Capture> capture;
    std::vector<std::size_t> last;   // nodes of the capture that the next one comes after
    bool busy = false, stop = false; // of the thread
    std::thread thread;              // where every stream has one

    bool idle() const { return queue.empty() && !busy; }
};
struct CUevent_st {
    int device = 0;
    bool timed = true;
    std::shared_ptr<tessera::emulation::Mark> mark; // null: never recorded
    std::shared_ptr<tessera::emulation::Capture> capture;
    std::vector<std::size_t> nodes; // of the capture, that it stands for
};

namespace tessera::emulation {

struct State {
    Lock lock;
    DeviceMemory memory;
    std::map<const char*, std::size_t> pinned;
    std::map<int, CUstream_st> default_streams; // of each device
    std::vector<cudaStream_t> streams;          // with these, in the order of creation
    std::set<cudaEvent_t> events;
    std::set<std::shared_ptr<Capture>> captures; // under way
    std::map<const void*, int> shared_limits;    // of kernels that were allowed more than 48 KiB
    std::uint64_t submitted = 0;
    std::uint64_t random_state = 0;
    cudaError_t broken = cudaSuccess; // for good, as a GPU is after a failed kernel
    std::string reason;
};
State& state();

struct Locked { // while it lives
    Locked() { state().lock.lock(); }
    ~Locked() { state().lock.unlock(); }
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;
};

int& current_device(); // of the calling thread

// Makes it what cudaGetLastError answers, and returns it.
cudaError_t report(cudaError_t error);

cudaStream_t find_stream(cudaStream_t stream); // null: there is no such stream
cudaError_t put(cudaStream_t stream, Operation operation);
cudaError_t finish(cudaStream_t stream); // runs until the stream is idle
cudaError_t finish_device(int device);
cudaError_t progress_until(const std::function<bool()>& done);
void progress(); // at most one operation

// In a capture. `note`: an operation of the stream becomes a node.
cudaError_t note(CUstream_st& stream, Operation operation);
cudaError_t break_capture(const std::shared_ptr<Capture>& capture, cudaError_t error);
cudaError_t refuse_in_capture(); // for calls that are not allowed during one, with anything

bool is_pinned(const void* address);

} // namespace tessera::emulation
