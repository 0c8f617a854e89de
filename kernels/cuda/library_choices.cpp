// SPDX-License-Identifier: Apache-2.0
// What was asked of a stream, trials of it, and what was settled.
#include "kernels/library_choices.hpp"

#include "kernels/cuda/cublaslt.hpp"
#include "kernels/cuda/cudnn.hpp"
#include "kernels/cuda/device.hpp"
#include "kernels/cuda/trials.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tessera {
namespace {

constexpr std::int64_t attention_words = 100, product_words = 200; // where the first numbers of a family begin

const CudaStream* gpu_of(const Stream& stream) {
    const auto* gpu = std::get_if<CudaStream>(&stream);
    return gpu == nullptr || gpu->state().is_for_planning ? nullptr : gpu;
}

// The bits of a number of random sign from 1/2 to 1.
std::uint32_t number_bits(DType dtype, std::uint32_t random) {
    const auto bits = [&](int mantissa, std::uint32_t half, int sign) {
        return half << mantissa | (random & ((1u << mantissa) - 1)) | random >> 31 << sign;
    };
    switch (dtype) {
    case DType::f32:
        return bits(23, 126, 31);
    case DType::bf16:
        return bits(7, 126, 15);
    case DType::f16:
        return bits(10, 14, 15);
    case DType::f8e4m3:
        return bits(3, 6, 7);
    case DType::f8e5m2:
        return bits(2, 14, 7);
    case DType::i32:
        break;
    }
    return 0;
}

} // namespace

namespace cuda {

TrialOperand::TrialOperand(CudaStream& stream, DType dtype, std::int64_t count)
    : memory_(allocate(stream, count * bytes_of(dtype))), count_(count), dtype_(dtype) {
    constexpr std::int64_t most = 1 << 20;
    const std::int64_t each = bytes_of(dtype), piece = std::min(count, most);
    std::vector<std::byte> numbers(static_cast<std::size_t>(piece * each));
    std::uint32_t random = 1;
    for (std::int64_t i = 0; i < piece; ++i) {
        random = random * 1664525u + 1013904223u; // Knuth's; the low bits repeat soon
        const std::uint32_t bits = number_bits(dtype, random ^ random >> 16);
        std::memcpy(numbers.data() + i * each, &bits, static_cast<std::size_t>(each));
    }
    for (std::int64_t at = 0; at < count; at += piece)
        check(cudaMemcpyAsync(memory_.data() + at * each, numbers.data(),
                              static_cast<std::size_t>(std::min(piece, count - at) * each), cudaMemcpyHostToDevice,
                              stream.state().stream),
              "cudaMemcpyAsync");
    stream.wait();
}

View TrialOperand::view() const { return {memory_.data(), {count_}, dtype_}; }

void note_asked(const CudaStream& stream, const ChoiceWords& asked) {
    if (!stream.state().is_for_planning) stream.state().asked.insert(asked);
}

} // namespace cuda

std::vector<ChoiceWords> asked_of_libraries(const Stream& stream) {
    const CudaStream* gpu = gpu_of(stream);
    if (gpu == nullptr) return {};
    return {gpu->state().asked.begin(), gpu->state().asked.end()};
}

LibraryChoices try_libraries(Stream& stream, std::span<const ChoiceWords> asked) {
    if (gpu_of(stream) == nullptr) return {};
    auto& gpu = std::get<CudaStream>(stream);
    for (const ChoiceWords& words : asked) {
        if (words.at(0) < attention_words)
            kernels::try_convolution(gpu, words);
        else if (gpu.state().options.tune)
            words[0] < product_words ? kernels::try_attention(gpu, words) : kernels::try_product(gpu, words);
        gpu.wait(); // the memory of a trial ends with it
    }
    return gpu.state().chosen;
}

void settle_libraries(Stream& stream, const LibraryChoices& choices) {
    if (gpu_of(stream) == nullptr) return;
    auto& gpu = std::get<CudaStream>(stream);
    gpu.wait();
    CudaStream::State& state = gpu.state();
    const bool same = std::ranges::all_of(state.chosen, [&](const auto& chosen) {
        const auto at = choices.find(chosen.first);
        return at != choices.end() && at->second == chosen.second;
    });
    if (!same) state.products.reset(), state.graphs.reset();
    state.settled = choices;
    state.is_settled = true;
}

std::string cudnn_trouble(const Stream& stream) {
    const CudaStream* gpu = gpu_of(stream);
    return gpu == nullptr ? "" : gpu->state().cudnn_trouble;
}

std::string libraries_text(const Stream& stream) {
    const CudaStream* gpu = gpu_of(stream);
    if (gpu == nullptr) return {};
    cudaDeviceProp properties{};
    cuda::check(cudaGetDeviceProperties(&properties, gpu->device()), "cudaGetDeviceProperties");
    return fmt::format("{}, cuBLASLt {}, cuDNN {}{}", properties.name, cuda::products_version(), cuda::cudnn_version(),
                       gpu->state().options.tf32 ? ", tf32" : "");
}

} // namespace tessera
