// SPDX-License-Identifier: Apache-2.0
// libhdf5's start, its errors, and the properties that every file of a checkpoint has.
#include "core/checkpoint/hdf5.hpp"

#include "kernels/error.hpp"

#include <fmt/format.h>

namespace tessera::hdf5 {
namespace {

herr_t keep_first(unsigned, const H5E_error2_t* error, void* text) {
    auto& reason = *static_cast<std::string*>(text);
    if (reason.empty() && error->desc != nullptr) reason = error->desc;
    return 0;
}

} // namespace

// Where the innermost entry holds the system's reason in quotes, that alone.
std::string reason_of_failure() {
    std::string reason;
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &reason);
    const std::string mark = "error message = '";
    const std::size_t first = reason.find(mark);
    if (first == std::string::npos) return reason.empty() ? "libhdf5 gives no reason" : reason;
    reason.erase(0, first + mark.size());
    return reason.substr(0, reason.find('\''));
}

void start() {
    [[maybe_unused]] static const bool started = H5dont_atexit() >= 0 && H5open() >= 0;
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); // each thread has a stack of its own
}

void fail(const std::string& action, const std::string& path) {
    throw SystemError(fmt::format("cannot {} in {}: {}", action, path, reason_of_failure()));
}

Id type_of(DType dtype) {
    if (dtype == DType::i32) return Id(H5Tcopy(H5T_STD_I32LE));
    Id type(H5Tcopy(H5T_IEEE_F32LE));
    if (dtype == DType::bf16) { // the upper half of a float: sign, 8 bits of exponent, 7 of mantissa
        H5Tset_fields(type, 15, 7, 8, 0, 7);
        H5Tset_precision(type, 16);
        H5Tset_size(type, 2);
        H5Tset_ebias(type, 127);
    }
    return type;
}

Id space_of(const Shape& shape) {
    if (shape.rank() == 0) return Id(H5Screate(H5S_SCALAR));
    hsize_t sizes[Shape::max_rank];
    for (int dim = 0; dim < shape.rank(); ++dim)
        sizes[dim] = static_cast<hsize_t>(shape[dim]);
    return Id(H5Screate_simple(shape.rank(), sizes, nullptr));
}

Id file_properties() {
    Id properties(H5Pcreate(H5P_FILE_ACCESS));
    H5Pset_libver_bounds(properties, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_file_locking(properties, false, true); // NFS and Lustre often have none; names are unique here
    H5Pset_alignment(properties, 64 << 10, 4 << 10);
    return properties;
}

Id groups_on_the_way() {
    Id properties(H5Pcreate(H5P_LINK_CREATE));
    H5Pset_create_intermediate_group(properties, 1);
    return properties;
}

void close_file(Id file, const std::string& path) { check(H5Fclose(file.release()), "finish the file", path); }

void set_attribute(hid_t object, const char* name, const std::vector<std::int64_t>& numbers, const std::string& path) {
    const hsize_t count = numbers.size();
    const Id space(H5Screate_simple(1, &count, nullptr));
    const Id attribute(
        check(H5Acreate2(object, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT), "create an attribute", path));
    check(H5Awrite(attribute, H5T_NATIVE_INT64, numbers.data()), "write an attribute", path);
}

} // namespace tessera::hdf5
