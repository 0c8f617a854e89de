// SPDX-License-Identifier: Apache-2.0
// emulation_faults NAME: the fault of that name; without one the sound twins of all. Exits with 0 when the result is
// right, 3 when CUDA reports an error, 4 when the result is wrong.
#include "tests/cuda_emulation/self_test/faults.hpp"

#include <cstdio>
#include <cstring>

namespace tessera::emulation {

Trial::Trial() {
    const std::vector<float> values(count, 1.f);
    for (float** vector : {&ones, &scratch, &result})
        check(cudaMalloc(reinterpret_cast<void**>(vector), bytes));
    check(cudaHostAlloc(reinterpret_cast<void**>(&pinned), bytes, cudaHostAllocDefault));
    std::memset(pinned, 0, bytes);
    for (cudaStream_t* each : {&stream, &other})
        check(cudaStreamCreateWithFlags(each, cudaStreamNonBlocking));
    check(cudaMemcpy(ones, values.data(), bytes, cudaMemcpyHostToDevice));
    check(cudaMemset(result, 0, bytes));
    check(cudaDeviceSynchronize());
}

Trial::~Trial() {
    for (float* vector : {ones, scratch, result})
        cudaFree(vector);
    cudaFreeHost(pinned);
    for (const cudaStream_t each : {stream, other})
        cudaStreamDestroy(each);
}

void Trial::check(cudaError_t error) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "%s: %s\n", cudaGetErrorName(error), cudaGetErrorString(error));
    failed_ = true;
}

Trial::Outcome Trial::finish() {
    check(cudaDeviceSynchronize());
    std::vector<float> values(count, 0.f);
    check(cudaMemcpy(values.data(), result, bytes, cudaMemcpyDeviceToHost));
    for (const float value : values)
        expect(value == 1.f);
    if (failed_) return Outcome::error;
    return right_ ? Outcome::right : Outcome::wrong;
}

namespace {

std::vector<Fault> all_faults() {
    std::vector<Fault> all = faults_of_kernels();
    for (const auto& more : {faults_of_memory(), faults_of_streams()})
        all.insert(all.end(), more.begin(), more.end());
    return all;
}

int exit_code(Trial::Outcome outcome) {
    return outcome == Trial::Outcome::right ? 0 : outcome == Trial::Outcome::error ? 3 : 4;
}

int run_broken(const char* name) {
    for (const Fault& fault : all_faults()) {
        if (std::strcmp(fault.name, name) != 0) continue;
        Trial trial;
        fault.run(trial, true);
        return exit_code(trial.finish());
    }
    std::fprintf(stderr, "no fault named '%s'\n", name);
    return 1;
}

int run_sound_twins() {
    int result = 0;
    for (const Fault& fault : all_faults()) {
        Trial trial;
        fault.run(trial, false);
        const int code = exit_code(trial.finish());
        if (code != 0) std::fprintf(stderr, "the sound twin of %s ends with %d\n", fault.name, code);
        if (code != 0) result = code;
    }
    return result;
}

} // namespace
} // namespace tessera::emulation

int main(int count, char** arguments) {
    return count > 1 ? tessera::emulation::run_broken(arguments[1]) : tessera::emulation::run_sound_twins();
}
