// SPDX-License-Identifier: Apache-2.0
// A step allocates nothing, and a run maps what its plan says: counted at operator new and mmap, which this file takes
// over for the whole test program.
#include "kernels/error.hpp"
#include "tests/core/tiny_training.hpp"

#include <atomic>
#include <cstdlib>
#include <gtest/gtest.h>
#include <new>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr std::size_t large_bytes = 4096;

struct Counts {
    std::atomic<bool> on = false;
    std::atomic<std::int64_t> small = 0; // allocations of all threads
    std::atomic<std::int64_t> large = 0;
};
constinit Counts counts;
constinit thread_local std::int64_t mapped_bytes = 0;

void* counted(void* memory, std::size_t bytes) {
    if (memory == nullptr) throw std::bad_alloc();
    if (counts.on) ++(bytes > large_bytes ? counts.large : counts.small);
    return memory;
}

} // namespace

void* operator new(std::size_t bytes) { return counted(std::malloc(bytes == 0 ? 1 : bytes), bytes); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return std::malloc(bytes == 0 ? 1 : bytes); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    const auto unit = static_cast<std::size_t>(alignment);
    return counted(std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit), bytes);
}
#pragma GCC diagnostic ignored "-Wmismatched-new-delete" // g++ 12 takes the new above for the library's
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

extern "C" void* mmap(void* address, std::size_t bytes, int protection, int flags, int file, off_t offset) noexcept {
    if ((flags & MAP_ANONYMOUS) != 0) mapped_bytes += static_cast<std::int64_t>(bytes);
    // A failure is -1 and errno, as mmap's own.
    return reinterpret_cast<void*>(syscall(SYS_mmap, address, bytes, protection, flags, file, offset));
}

using namespace tessera;

TEST(RunMemory, IsWhatThePlanSays) {
    for (const Variant& variant : variants())
        for (const int ranks : {1, 3})
            run_as_threads(ranks, [&](Communicator& communicator) {
                SCOPED_TRACE(variant.name);
                TinyTraining training(variant.overrides, communicator);
                const MemoryNeed& planned = training.experiment.memory;
                const std::int64_t before = mapped_bytes;
                const Memory memory(planned, training.program.layout, training.groups, training.stream);
                EXPECT_EQ(mapped_bytes - before, planned.where_the_stream_works());
                for (std::size_t i = 0; i < memory_kinds; ++i) {
                    const auto kind = static_cast<MemoryKind>(i);
                    EXPECT_EQ(memory.allocated()[kind], kind < MemoryKind::data ? planned[kind] : 0) << name_of(kind);
                }
                const std::int64_t loading = mapped_bytes;
                const auto make_loader = [&](const LoaderOptions& options) {
                    const SampleOrder order(order_options(training.config, *training.dataset, options.split, 1, 0));
                    return Loader(*training.dataset, order, options).allocated_bytes();
                };
                const std::int64_t allocated = make_loader(training.experiment.train_loader(0)) +
                                               make_loader(training.experiment.evaluation_loader());
                EXPECT_EQ(allocated, planned[MemoryKind::data]);
                EXPECT_EQ(mapped_bytes - loading, allocated);
            });
}

// A loader of fewer rows may have more slots.
TEST(RunMemory, OfEvaluationsIsThatOfTheLargestLoader) {
    Experiment experiment;
    experiment.prefetch = 0;
    experiment.sizes.sample.fields = {{"x", {1024}, DType::f32}};
    experiment.evaluation_batches = 1;
    experiment.evaluation_rows = 100;
    EXPECT_EQ(experiment.evaluation_loader_bytes(), 40 * 100 * 4096);
    experiment.rest_rows = 85;
    EXPECT_EQ(experiment.evaluation_loader_bytes(), 48 * 85 * 4096);
}

TEST(RunMemory, ReachesNotBeyondItsEnd) {
    run_as_threads(1, [&](Communicator& communicator) {
        const TinyTraining training({}, communicator);
        const std::int64_t bytes = training.experiment.memory[MemoryKind::weights];
        EXPECT_NO_THROW(training.memory.view(MemoryKind::weights, bytes - 4, {{1}, DType::f32}));
        EXPECT_THROW(training.memory.view(MemoryKind::weights, bytes - 4, {{2}, DType::f32}), InternalError);
        EXPECT_THROW(training.memory.view(MemoryKind::weights, -4, {{1}, DType::f32}), InternalError);
    });
}

TEST(RunMemory, StepsAllocateNothing) {
    for (const int ranks : {1, 2})
        for (const Variant& variant : variants())
            run_as_threads(ranks, [&](Communicator& communicator) {
                TinyTraining training(variant.overrides, communicator);
                training.step(0);
                communicator.barrier(training.stream);
                const std::int64_t mapped = mapped_bytes;
                if (communicator.rank() == 0) {
                    counts.small = counts.large = 0;
                    counts.on = true;
                }
                communicator.barrier(training.stream);
                for (int step = 1; step < 5; ++step)
                    training.step(step);
                communicator.barrier(training.stream);
                if (communicator.rank() == 0) {
                    counts.on = false;
                    const std::int64_t read = 4 * training.experiment.batch.micro_batches; // a list of views each
                    EXPECT_EQ(counts.large, 0) << variant.name << ", " << ranks << " ranks";
                    EXPECT_LE(counts.small, read + 8) << variant.name << ", " << ranks << " ranks";
                }
                communicator.barrier(training.stream);
                EXPECT_EQ(mapped_bytes, mapped);
            });
}
