// SPDX-License-Identifier: Apache-2.0
// libhdf5: ids with one owner, its errors as SystemError, the types of tensors. In this folder for what draws files
// only: no checkpoint is read through libhdf5. A person's data are (data/hdf5_field.hpp).
#pragma once

#include "kernels/tensor.hpp"

#include <hdf5.h>
#include <string>
#include <utility>
#include <vector>

namespace tessera::hdf5 {

// The owner of an id of any kind: libhdf5 counts references to it.
class Id {
public:
    Id() = default;
    explicit Id(hid_t id) : id_(id) {}
    Id(Id&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
    Id& operator=(Id&& other) noexcept {
        std::swap(id_, other.id_);
        return *this;
    }
    ~Id() {
        if (id_ >= 0) H5Idec_ref(id_);
    }

    operator hid_t() const { return id_; }
    hid_t release() { return std::exchange(id_, -1); } // the caller closes it

private:
    hid_t id_ = -1;
};

// To be called first by whoever uses libhdf5 on a thread. Its handler at exit is left out, because that crashes after a
// write has failed; and it prints no error stacks.
void start();

// SystemError "cannot ACTION in PATH: REASON", the reason from libhdf5's error stack. Takes its results, so that
// `check(H5Dwrite(…), …)` and `Id file(check(H5Fopen(…), …))` read as the calls do.
std::string reason_of_failure(); // the first entry of the error stack, or the system's reason in it
[[noreturn]] void fail(const std::string& action, const std::string& path);
inline hid_t check(hid_t result, const char* action, const std::string& path) {
    if (result < 0) fail(action, path);
    return result;
}

Id type_of(DType dtype);                           // as stored; little-endian, so that reading converts nothing here
Id space_of(const Shape& shape);                   // scalar for rank 0
Id file_properties();                              // format of HDF5 1.10 (checksums of its own data), no file locks
Id groups_on_the_way();                            // link creation: "a/b" makes group "a" where it is missing
void close_file(Id file, const std::string& path); // throws when what was left to write cannot be written
void set_attribute(hid_t object, const char* name, const std::vector<std::int64_t>& numbers, const std::string& path);

} // namespace tessera::hdf5
