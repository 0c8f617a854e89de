// SPDX-License-Identifier: Apache-2.0
// Magic, a Python dictionary as header, the elements.
#include "core/formats/numpy.hpp"

#include "core/formats/new_file.hpp"
#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera {

void write_numpy(const std::string& path, const ConstView& elements) {
    if (elements.dtype != DType::f32) throw InternalError("a .npy file of numbers that are not f32");
    std::string shape;
    for (int dim = 0; dim < elements.shape.rank(); ++dim)
        shape += fmt::format("{},", elements.shape[dim]);
    std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", shape);
    constexpr std::size_t before = 10, aligned = 64; // magic, version and length; to whole lines of the cache
    header.append(aligned - (before + header.size() + 1) % aligned, ' ');
    header += '\n';
    std::string start = "\x93NUMPY\x01";
    start += '\0';
    start += static_cast<char>(header.size() & 0xff);
    start += static_cast<char>(header.size() >> 8);
    start += header;
    NewFile file(path);
    file.write(start.data(), static_cast<std::int64_t>(start.size()));
    file.write(elements.data, elements.bytes());
    file.finish();
}

} // namespace tessera
