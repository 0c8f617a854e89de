// SPDX-License-Identifier: Apache-2.0
// Planted faults, each with a sound twin: both end with a vector of ones on a sound GPU, and it is the emulation's
// business to tell them apart.
#pragma once

#include <cuda_language.cuh>
#include <vector>

namespace tessera::emulation {

// What a fault works with, and what has become of it.
class Trial {
public:
    static constexpr int count = 250; // floats in each vector; a block has 256 threads
    static constexpr std::size_t bytes = count * sizeof(float);
    static constexpr int threads = 256;

    Trial();
    Trial(const Trial&) = delete;
    Trial& operator=(const Trial&) = delete;
    ~Trial();

    float* ones = nullptr;    // on the device
    float* scratch = nullptr; // on the device, never written
    float* result = nullptr;  // on the device, zeros
    float* pinned = nullptr;  // of the host, zeros
    cudaStream_t stream = nullptr, other = nullptr;

    template <class... Parameters, class... Arguments> void launch(void (*kernel)(Parameters...), unsigned blocks,
                                                                   unsigned block, std::size_t shared_bytes,
                                                                   Arguments... arguments) {
        check(cuda::launch_kernel(kernel, blocks, block, shared_bytes, stream, arguments...));
    }
    void check(cudaError_t error);
    void expect(bool right) { right_ = right_ && right; }

    // Waits, and looks at the result.
    enum class Outcome { right, wrong, error };
    Outcome finish();

private:
    bool right_ = true, failed_ = false;
};

struct Fault {
    const char* name;
    void (*run)(Trial&, bool broken);
};
std::vector<Fault> faults_of_kernels();
std::vector<Fault> faults_of_memory();
std::vector<Fault> faults_of_streams();

} // namespace tessera::emulation
