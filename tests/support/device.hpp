// SPDX-License-Identifier: Apache-2.0
// One test for a kernel on the CPU and on the GPU: where its samples lie while it runs.
#pragma once

#include "kernels/copy.hpp"
#include "tests/support/sample.hpp"

#include <deque>

namespace tessera {

class OnCpu {
public:
    explicit OnCpu(int threads = 2) : stream_(threads) {}
    CpuStream& stream() { return stream_; }
    View operator()(const Sample& sample) { return sample.view(); } // where the kernel finds it
    void finish() {}                                                // afterwards the samples hold the results

private:
    CpuStream stream_;
};

// The GPU that the program is linked with: a real one, or the emulation. Samples travel with the guards beside them, so
// that a write beyond an end is seen when they come back.
class OnCuda {
public:
    explicit OnCuda(CudaOptions options = {}) : stream_(0, options) {}
    CudaStream& stream() { return stream_; }
    View operator()(const Sample& sample) {
        for (const Copy& copy : copies_)
            if (copy.sample == &sample) return copy.view();
        copies_.push_back({&sample, allocate(stream_, sample.whole().bytes())});
        kernels::upload(stream_, sample.whole(), copies_.back().whole());
        return copies_.back().view();
    }
    void finish() {
        stream_.wait();
        for (const Copy& copy : copies_)
            kernels::download(stream_, copy.whole(), copy.sample->whole());
        copies_.clear();
    }

private:
    struct Copy {
        const Sample* sample;
        Buffer memory;
        View whole() const { return {memory.data(), sample->whole().shape, DType::i32}; }
        View view() const {
            const View at = sample->view();
            return {memory.data() + Sample::guard, at.shape, at.dtype};
        }
    };

    CudaStream stream_;
    std::deque<Copy> copies_;
};

#if TESSERA_CUDA
using Devices = testing::Types<OnCpu, OnCuda>;
#else
using Devices = testing::Types<OnCpu>;
#endif

// TYPED_TEST_SUITE(Norm, Devices, DeviceNames) runs every test of the suite on both.
struct DeviceNames {
    template <class Device> static std::string GetName(int) { return std::is_same_v<Device, OnCpu> ? "Cpu" : "Cuda"; }
};

} // namespace tessera
