// SPDX-License-Identifier: Apache-2.0
// A rank's HDF5 file under a MANIFEST that has the right hashes of it, as one who means ill would write it: two bytes
// that say where the tensor w (4, 6) lies, then the file.
#include "core/checkpoint/checkpoint.hpp"
#include "core/checkpoint/damage.hpp"
#include "core/checkpoint/durable_files.hpp"
#include "kernels/error.hpp"
#include "tests/fuzz/target.hpp"

#include <filesystem>
#include <fmt/format.h>

using namespace tessera;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    constexpr std::int64_t tensor_bytes = 4 * 6 * 4;
    if (size < 2) return 0;
    const std::string_view bytes = fuzz::text_of(data + 2, size - 2);
    const std::int64_t first = data[0] | data[1] << 8;
    const std::string path = fuzz::write_file("rank-00000.h5", bytes);
    fuzz::write_file("index.h5", "");
    const bool inside = first + tensor_bytes <= static_cast<std::int64_t>(bytes.size());
    const std::uint64_t outside =
        hash_outside(File::open_to_read(path), inside ? Extents{{first, first + tensor_bytes}} : Extents{});
    const std::string body = fmt::format(
        "tessera-checkpoint 1\nstep 1\nranks 1\nindex index.h5 0 {:016x}\nfile rank-00000.h5 {} {:016x}\n"
        "tensor w f32 (4,6)\nslab 0 (0,0) (4,6) {} w {:016x}\n",
        Hash::of(nullptr, 0), bytes.size(), outside, first, inside ? Hash::of(bytes.data() + first, tensor_bytes) : 0);
    fuzz::write_file(
        "MANIFEST", body + fmt::format("end {:016x}\n", Hash::of(body.data(), static_cast<std::int64_t>(body.size()))));
    const fuzz::AllocationLimit limit(size, 1 << 20);
    try {
        for (const std::string& sentence : damage_of(fuzz::scratch_folder()))
            fuzz::expect_names(sentence, fuzz::scratch_folder());
    } catch (const SystemError& refusal) { // of libhdf5
        fuzz::expect_names(refusal.what(), path);
    }
    return 0;
}
