// SPDX-License-Identifier: Apache-2.0
// Micro-batches read ahead by threads of their own, so that a step does not wait for data.
#pragma once

#include "core/data/augmentation.hpp"
#include "core/data/dataset.hpp"
#include "core/data/sample_order.hpp"
#include "kernels/memory.hpp"

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace tessera {

// Row b of micro-batch m of the step s after the first (all from 0) is sample number first_sample + (s *
// micro_batches_per_step + m) * micro_batch_size + b of the order: never a question of ranks.
struct LoaderOptions {
    Split split = Split::train;
    std::int64_t micro_batch_size = 1;
    std::int64_t first_micro_batch = 0;      // of this rank's share of each step
    std::int64_t micro_batches = 1;          // in it
    std::int64_t stride = 1;                 // between them
    std::int64_t micro_batches_per_step = 1; // of all ranks
    std::int64_t first_step = 0;
    std::int64_t end_step = 0;      // one past the last
    std::int64_t first_sample = -1; // of the first step; -1: steps before were as large
    int prefetch = 0;               // micro-batches held in memory; 0: 4, of small ones up to 1,024 in 16 MiB
    int threads = 1;                // that read; what is read where does not depend on them
    Augmentation augmentation{}; // of the first field, an image, where it changes any; and of the last, where it mixes
};

// Gives this rank's micro-batches in the order of (step, micro-batch). One thread calls next() and seconds_waited().
class Loader {
public:
    // `dataset` must outlive the loader. Throws InternalError for a share outside the step.
    // `slots` is memory of buffer_bytes that the stream's uploads are fastest from; without, the loader takes its own.
    Loader(const Dataset& dataset, const SampleOrder& order, const LoaderOptions& options, Buffer slots = {});
    ~Loader(); // stops the threads after the samples that they read

    Loader(const Loader&) = delete;
    Loader& operator=(const Loader&) = delete;

    // Copies the next micro-batch, in the stream's order, into one view per field: (micro_batch_size, field shape…); of
    // fields as Augmentation::fields_given has them.
    // Rethrows what reading a sample threw, of several the first, once the micro-batches before it are taken. Throws
    // InternalError after the last one. On a GPU the host runs at most one micro-batch ahead of the copies.
    void next(Stream& stream, std::span<const View> batch);

    std::int64_t allocated_bytes() const { return slots_.bytes(); }
    double seconds_waited() const { return seconds_waited_; } // time that next() had nothing to give

    // The memory that a loader allocates for a dataset of these fields, for the plan.
    static std::int64_t buffer_bytes(const std::vector<Field>& fields, const LoaderOptions& options);

private:
    // Of a reading thread, for augmentation.
    struct Scratch {
        std::vector<float> room, next, black;
        std::vector<std::int32_t> labels;
        std::vector<SampleOrder::Place> places;
    };

    void read_ahead(const std::stop_token& stop);
    std::int64_t claim_piece(const std::stop_token& stop); // -1: there is no other to read
    void read_piece(std::int64_t piece, Scratch& scratch, const std::stop_token& stop);
    void finish_piece(std::int64_t piece);
    static int slots_for(const std::vector<Field>& fields, const LoaderOptions& options);
    void find_places(std::int64_t begin, std::int64_t end, Scratch& scratch) const;
    void read_sample(std::size_t row, std::span<const View> views, Scratch& scratch);
    void read_mixed(std::int64_t number, std::int64_t first_row, Scratch& scratch, const std::stop_token& stop);
    View row_view(std::int64_t number, std::size_t field, std::int64_t row) const;
    View slot_view(std::int64_t number, std::size_t field) const;
    void wait_for(std::int64_t number);
    void release_until(std::int64_t number);

    const Dataset& dataset_;
    SampleOrder order_;
    LoaderOptions options_;
    std::vector<Field> fields_;
    std::vector<std::int64_t> field_offsets_; // bytes from the start of a slot
    std::int64_t slot_bytes_ = 0;
    std::int64_t micro_batches_ = 0; // to give in all
    std::int64_t given_ = 0;
    Buffer slots_;                // micro-batch number n lies in slot n % prefetch
    std::int64_t piece_rows_ = 1; // of a micro-batch: threads take its pieces in their order
    std::int64_t pieces_ = 1;     // of a micro-batch

    double seconds_waited_ = 0;
    std::mutex mutex_; // guards what follows
    std::condition_variable_any changed_;
    std::int64_t claimed_ = 0;       // pieces
    std::int64_t reading_ = 0;       // of those
    std::vector<std::int64_t> left_; // pieces of the micro-batch in this slot that are not read
    std::int64_t read_ = 0;          // micro-batches before this one are
    std::int64_t taken_ = 0;         // the slots of micro-batches before this one are free
    std::exception_ptr failure_;
    std::int64_t failed_piece_ = 0;
    std::vector<std::jthread> threads_; // last: they start when all else is there and end first
};

// The slots of a loader whose micro-batches go to this stream.
Buffer loader_memory(const Stream& stream, const std::vector<Field>& fields, const LoaderOptions& options);

} // namespace tessera
