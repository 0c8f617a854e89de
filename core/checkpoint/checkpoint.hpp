// SPDX-License-Identifier: Apache-2.0
// Checkpoints: what a run needs to go on, saved by any number of ranks and read by any other number.
//
//   CHECKPOINTS/step-00000500/
//       rank-00000.h5 …   one HDF5 file per rank with its boxes of the tensors; the first also holds the metadata
//       index.h5          every tensor as one whole (virtual) dataset, for h5py and h5dump; never read here
//       MANIFEST          text: the metadata, every box of every tensor, and a hash of every byte; written last
//
// A folder under its final name is complete: it is written as .tmp-step-…, synced, and renamed. bf16 is stored as an
// HDF5 floating-point type of two bytes (8 bits of exponent, 7 of mantissa), which h5py shows as float32.
#pragma once

#include "kernels/tensor.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// The ranks that save together. All functions are collective: every rank calls them, in the same order.
struct Team {
    int rank = 0;
    int size = 1;
    std::function<std::vector<std::string>(const std::string&)> gather; // rank 0: everybody's text by rank; others: {}
    std::function<std::string(const std::string&)> broadcast;           // rank 0's text, on every rank
    std::function<bool(bool)> all;                                      // whether every rank says true, on every rank
};

Team team_of_one();

// This rank's box of a logical tensor. `data` has the shape of the box, and may be null when the box is empty. A rank
// may give several boxes of one tensor. All ranks together give every element once; each rank may name any of the
// tensors. Names are made of A-Z a-z 0-9 _ . - and '/', which groups them in the HDF5 files
// ("optimizer.first_moment/norm.scale"); "metadata" is taken.
struct TensorPart {
    std::string name;
    Shape whole;
    DType dtype = DType::f32;
    std::vector<std::int64_t> start; // the first element of the box, one index per dim
    ConstView data;
};

struct CheckpointContent {
    std::int64_t step = 0;
    std::map<std::string, std::string> metadata; // keys are named as tensors are, values are any text; rank 0's count
    std::vector<TensorPart> tensors;
};

// Collective. Writes `checkpoints_folder`/step-NNNNNNNN, replacing one of the same step, and removes what interrupted
// saves left there. When it returns, the checkpoint is on disk. All ranks end alike: when one fails, every rank throws
// SystemError with the rank, the call, the path and the reason (InternalError when the boxes do not cover a tensor
// once), the unfinished folder is removed, and earlier checkpoints are as they were. checkpoint_writer.hpp does the
// same beside other work.
void save_checkpoint(const Team& team, const std::string& checkpoints_folder, const CheckpointContent& content);

struct SavedTensor {
    std::string name;
    Shape whole;
    DType dtype = DType::f32;
};

// A checkpoint open for reading. Needs no team: each rank opens its own and reads the boxes that it wants. Not for use
// by two threads at once. Files are opened when needed, at most 64 at a time: every rank of a large run has its own
// Checkpoint of as many files as there were ranks. Every block that is read is compared with its hash.
class Checkpoint {
public:
    // Reads MANIFEST and looks at the sizes of the files. Throws ConfigError, one sentence, when `folder` is not a
    // complete checkpoint that this build can read, and SystemError when the system does not let it look.
    explicit Checkpoint(const std::string& folder);
    Checkpoint(Checkpoint&&) noexcept;
    Checkpoint& operator=(Checkpoint&&) noexcept;
    ~Checkpoint();

    const std::string& folder() const;
    std::int64_t step() const;
    int ranks() const; // how many wrote it
    const std::map<std::string, std::string>& metadata() const;
    const std::vector<SavedTensor>& tensors() const;
    bool has(std::string_view name) const;

    // Throws ConfigError unless the tensor is there with this shape and dtype: "checkpoint …: tensor 'wte' is (65, 128)
    // f32, the model wants (70, 128) f32". To be called before read, which knows the box only.
    void require(std::string_view name, const Shape& whole, DType dtype) const;

    // Fills `part` with the box of its shape that begins at `start`. Throws ConfigError when there is no such tensor,
    // the box is not inside it, the dtype is another, or a file is missing or damaged (naming the file and the tensor).
    void read(std::string_view name, const std::vector<std::int64_t>& start, View part) const;

    // Reads every block of every file, index.h5 too, and throws ConfigError at the first that is damaged.
    void verify() const;

    std::int64_t bytes_read() const; // of tensor data, by read and verify

private:
    struct Opened;
    std::unique_ptr<Opened> opened_;
};

// The path of the step-… folder with the greatest step (below `before`) that opens; empty when there is none. Why
// others were passed over is appended to `skipped`, one sentence each. Throws SystemError when a folder or MANIFEST
// cannot be read.
std::string newest_checkpoint(const std::string& checkpoints_folder, std::vector<std::string>* skipped = nullptr,
                              std::int64_t before = INT64_MAX);

// How many step-… folders there are, whatever they hold. Throws SystemError when the folder cannot be listed.
std::int64_t count_checkpoints(const std::string& checkpoints_folder);

// Which checkpoints of a run stay.
struct Retention {
    std::int64_t latest = 0;               // the newest so many (at least one); 0: all
    std::int64_t every = 0;                // and those of steps that this divides; 0: no more
    std::vector<std::int64_t> newest_of{}; // and the newest whose step one of these divides
};

// For one rank to call. Keeps the newest checkpoints that open, and whatever is newer than these; removes other step-…
// folders, each under a .del-… name. Throws SystemError when a folder cannot be read or removed.
void remove_old_checkpoints(const std::string& checkpoints_folder, const Retention& retention);

// For one rank to call when a run starts from `step`: what lies there of later steps belongs to another course of it,
// and would be taken for the newest of this one. step-… becomes old-step-…, which nothing here looks at again but the
// next one of that name, which replaces it. Returns the new paths. Throws SystemError when a folder cannot be renamed.
std::vector<std::string> set_aside_checkpoints_after(const std::string& checkpoints_folder, std::int64_t step);

} // namespace tessera
