// SPDX-License-Identifier: Apache-2.0
// A thread of each rank that watches whether the job goes on, and ends it with a verdict where it does not.
#pragma once

#include "core/watch/deadlines.hpp"
#include "core/watch/job_folder.hpp"
#include "parallel/communication/world.hpp"
#include "parallel/layout/mesh.hpp"

#include <filesystem>
#include <memory>

namespace tessera {

// Needs neither MPI nor NCCL to get on: the threads talk over TCP. Every rank tells one of them, that of rank 0, once a
// second what it does, and that one answers. When a rank has passed its deadline (deadlines.hpp), and no rank that
// answers is still within its own, rank 0's thread asks all for what they do and for their last calls, composes one
// page (stall_verdict.hpp), writes it to RUN/job/verdict.txt and the standard error, notes the failure (job_folder.hpp)
// and has every rank end with exit code 4. A rank whose process is gone without a goodbye ends the job at once so. What
// a stopped or killed rank was at is read from its page by a rank of its host, which also ends a stopped one.
//
// Where rank 0 itself is gone, or silent for some seconds while the others' deadlines are over, the next rank takes its
// place, and so on: a rank that is cut off from all others comes to be alone, and ends. Silence alone, shorter than the
// deadline, ends nothing: connections are made anew. Time in which this process did not run (a suspended job) is not
// counted.
class Watchdog {
public:
    struct Options {
        std::filesystem::path run_folder;
        Mesh mesh;
        double step_timeout = 0; // run.step_timeout
        JobStart start{};
    };
    // Collective over the world. `neighbours` and `recorder` are of the ranks of this host; all arguments outlive it.
    Watchdog(const World& world, const ProcessGroup& neighbours, const FlightRecorder& recorder, Options options);
    // Waits for all ranks to come here, and says goodbye. While an exception passes it only says goodbye.
    ~Watchdog();

    // On rank 0 writes RUN/job/ranks.json (job_folder.hpp); others do nothing. SystemError when it cannot be written.
    void write_ranks() const;
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;

private:
    class Watch;
    const World& world_;
    int exceptions_;
    std::unique_ptr<Watch> watch_;
};

} // namespace tessera
