// SPDX-License-Identifier: Apache-2.0
// A safetensors file, or a model file of llm.c, opened and every tensor read.
#include "core/formats/llmc.hpp"
#include "core/formats/safetensors.hpp"
#include "kernels/error.hpp"
#include "tests/fuzz/target.hpp"

#include <cstdlib>
#include <cstring>
#include <vector>

using namespace tessera;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string path = fuzz::write_file("fuzz.weights", fuzz::text_of(data, size));
    std::int32_t magic = 0;
    if (size >= sizeof magic) std::memcpy(&magic, data, sizeof magic);
    try {
        const fuzz::AllocationLimit limit(size, 64 << 10);
        const WeightFile file = magic == llmc_model_magic ? open_llmc(path) : open_safetensors(path);
        for (const StoredTensor& tensor : file.tensors()) {
            if (file.find(tensor.name) != &tensor) std::abort();
            std::vector<float> values(static_cast<std::size_t>(tensor.shape.count()));
            if (tensor.dtype == DType::i32) continue; // which nothing asks for as f32
            file.read(tensor, 0, {values.data(), tensor.shape, DType::f32});
        }
    } catch (const ConfigError& refusal) {
        fuzz::expect_names(refusal.what(), path);
    }
    return 0;
}
