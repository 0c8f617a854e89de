// SPDX-License-Identifier: Apache-2.0
// Streams: queues of work, and when it is done: at once, when something waits for it, or on a thread of its own.
#include "tests/cuda_emulation/runtime/state.hpp"

#include "tests/cuda_emulation/settings.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>

namespace tessera::emulation {
namespace {

constexpr std::chrono::seconds patience{120};

bool earlier_on(const CUstream_st& stream, const Operation& operation) {
    return stream.busy || (!stream.queue.empty() && stream.queue.front().sequence < operation.sequence);
}

bool is_default(const CUstream_st& stream) { return &stream == &state().default_streams.at(stream.device); }

bool can_run(const CUstream_st& stream) {
    const Operation& next = stream.queue.front();
    if (next.wait_for && !next.wait_for->done) return false;
    for (const cudaStream_t other : state().streams) {
        if (other == &stream || other->device != stream.device || !earlier_on(*other, next)) continue;
        if ((is_default(stream) && other->blocking) || (is_default(*other) && stream.blocking)) return false;
    }
    if (!next.ordered || settings().schedule == Schedule::threaded) return true;
    for (const cudaStream_t other : state().streams)
        for (const Operation& waiting : other->queue)
            if (waiting.ordered && waiting.sequence < next.sequence) return false;
    return true;
}

void run(const Operation& operation) {
    if (!operation.work || state().broken) return;
    {
        const Locked locked;
        state().memory.open();
    }
    try {
        operation.work();
    } catch (const std::exception& error) {
        const Locked locked;
        state().broken = cudaErrorLaunchFailure;
        state().reason = std::string(operation.name) + ": " + error.what();
        std::fprintf(stderr, "CUDA emulation: %s\n", state().reason.c_str());
    }
    const Locked locked;
    state().memory.close();
}

void mark_done(const Operation& operation) {
    if (!operation.record) return;
    operation.record->done = true;
    operation.record->at = std::chrono::steady_clock::now();
}

Operation take(CUstream_st& stream) {
    Operation operation = std::move(stream.queue.front());
    stream.queue.pop_front();
    return operation;
}

bool run_one() {
    std::vector<cudaStream_t> candidates;
    for (const cudaStream_t stream : state().streams)
        if (!stream->queue.empty() && can_run(*stream)) candidates.push_back(stream);
    if (candidates.empty()) return false;
    cudaStream_t chosen = nullptr;
    if (settings().schedule == Schedule::shuffled) {
        std::uint64_t& random = state().random_state; // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        chosen = candidates[random % candidates.size()];
    } else {
        chosen = *std::min_element(candidates.begin(), candidates.end(), [](cudaStream_t a, cudaStream_t b) {
            return a->queue.front().sequence < b->queue.front().sequence;
        });
    }
    const Operation operation = take(*chosen);
    run(operation);
    mark_done(operation);
    return true;
}

void serve(cudaStream_t stream) { // the thread of a stream
    Lock& lock = state().lock;
    const std::lock_guard<Lock> guard(lock);
    for (;;) {
        while (!lock.wait([&] { return stream->stop || (!stream->queue.empty() && can_run(*stream)); }, patience)) {
        }
        if (stream->stop) return;
        const Operation operation = take(*stream);
        stream->busy = true;
        lock.unlock();
        run(operation);
        lock.lock();
        mark_done(operation);
        stream->busy = false;
        lock.notify();
    }
}

} // namespace

State& state() {
    static State* const only = [] { // never destroyed: statics of the program may still free memory
        auto* const made = new State;
        made->random_state = 88172645463325252ull ^ settings().schedule_seed * 0x9E3779B97F4A7C15ull;
        return made;
    }();
    return *only;
}

cudaError_t progress_until(const std::function<bool()>& done) {
    if (settings().schedule == Schedule::threaded) {
        if (!state().lock.wait(done, patience)) {
            std::fprintf(stderr, "CUDA emulation: two minutes without progress\n");
            std::abort();
        }
        return report(state().broken);
    }
    while (!done())
        if (!run_one()) {
            std::fprintf(stderr, "CUDA emulation: streams wait for one another\n");
            return report(cudaErrorUnknown);
        }
    return report(state().broken);
}

void progress() {
    if (settings().schedule != Schedule::threaded) run_one();
}

cudaError_t finish(cudaStream_t stream) {
    return progress_until([stream] { return stream->idle(); });
}

cudaError_t finish_device(int device) {
    return progress_until([device] {
        return std::all_of(state().streams.begin(), state().streams.end(),
                           [device](cudaStream_t stream) { return stream->device != device || stream->idle(); });
    });
}

cudaStream_t find_stream(cudaStream_t stream) {
    State& all = state();
    if (stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread) {
        CUstream_st& own = all.default_streams[current_device()];
        if (std::find(all.streams.begin(), all.streams.end(), &own) == all.streams.end()) {
            own.device = current_device();
            all.streams.push_back(&own);
        }
        return &own;
    }
    return std::find(all.streams.begin(), all.streams.end(), stream) == all.streams.end() ? nullptr : stream;
}

// As on a GPU, an error of the work itself is reported by a later call.
cudaError_t put(cudaStream_t stream, Operation operation) {
    State& all = state();
    if (all.broken) return report(all.broken);
    if (stream->capture) return note(*stream, std::move(operation));
    if (is_default(*stream))
        for (const auto& capture : all.captures)
            if (capture->origin->blocking) return break_capture(capture, cudaErrorStreamCaptureImplicit);
    operation.sequence = ++all.submitted;
    stream->queue.push_back(std::move(operation));
    if (settings().schedule == Schedule::threaded) {
        if (!stream->thread.joinable()) stream->thread = std::thread(serve, stream);
        all.lock.notify();
    } else if (settings().schedule == Schedule::eager) {
        while (run_one()) {
        }
    }
    return cudaSuccess;
}

cudaError_t submit(cudaStream_t stream, std::function<void()> work, const char* name, bool ordered) {
    const Locked locked;
    const cudaStream_t on = find_stream(stream);
    if (on == nullptr) return report(cudaErrorInvalidResourceHandle);
    return put(on, {name, std::move(work), ordered, nullptr, nullptr});
}

} // namespace tessera::emulation

using namespace tessera::emulation;

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    const Locked locked;
    if (state().broken) return report(state().broken);
    if ((flags & ~static_cast<unsigned>(cudaStreamNonBlocking)) != 0) return report(cudaErrorInvalidValue);
    find_stream(nullptr); // the default stream comes first
    *stream = new CUstream_st;
    (*stream)->device = current_device();
    (*stream)->blocking = flags != cudaStreamNonBlocking;
    state().streams.push_back(*stream);
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
    return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const Locked locked;
    if (stream == nullptr || find_stream(stream) != stream) return report(cudaErrorInvalidResourceHandle);
    const cudaError_t error = finish(stream);
    stream->stop = true;
    if (stream->thread.joinable()) {
        state().lock.notify();
        state().lock.unlock();
        stream->thread.join();
        state().lock.lock();
    }
    std::erase(state().streams, stream);
    delete stream;
    return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const Locked locked;
    const cudaStream_t on = find_stream(stream);
    if (on == nullptr) return report(cudaErrorInvalidResourceHandle);
    if (on->capture) return break_capture(on->capture, cudaErrorStreamCaptureUnsupported);
    return finish(on);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    const Locked locked;
    const cudaStream_t on = find_stream(stream);
    if (on == nullptr) return report(cudaErrorInvalidResourceHandle);
    if (on->capture) return break_capture(on->capture, cudaErrorStreamCaptureUnsupported);
    if (on->idle()) return report(state().broken);
    progress();
    return cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize() {
    const Locked locked;
    if (!state().captures.empty()) return break_capture(*state().captures.begin(), cudaErrorStreamCaptureUnsupported);
    return finish_device(current_device());
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
    return submit(
        stream, [function, data] { function(data); }, "cudaLaunchHostFunc");
}

} // extern "C"
