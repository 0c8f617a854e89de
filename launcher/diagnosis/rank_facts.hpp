// SPDX-License-Identifier: Apache-2.0
// What `tessera doctor` knows of each rank and its host, of their links and their folder, before it judges.
#pragma once

#include "core/run/measure_pairs.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace tessera {

struct RankFacts {
    int rank = 0;
    std::string host;
    std::map<std::string, std::string> versions; // library_versions.hpp, and "tessera"
    std::string kernel;                          // "Linux 6.1.0"
    std::string processor;                       // "AMD EPYC 9654 96-Core Processor"
    std::string instructions;                    // the widest of its vectors: "avx512f", "avx2", …
    std::string device;                          // where it computes: "2 threads", "GPU 0 (NVIDIA H200)"
    int threads = 1;
    std::vector<int> cpus; // that it may run on
    int host_cpus = 1;     // that are there
    bool infiniband = false;
    // Bytes, or counts; below 0: without limit, or not known.
    std::int64_t memory = -1, shared_memory_free = -1, locked_memory = -1, open_files = -1, processes = -1;
    double clock_ahead = 0; // of rank 0's, seconds
    double clock_error = 0;
    double flops = 0;            // per second
    double memory_bandwidth = 0; // bytes per second
    std::string folder_problem;  // why it does not see what rank 0 wrote; "" when it does
};

// A rank's own facts but for what is measured together with others.
RankFacts facts_of_this_process();

// As text, for the way to rank 0, and back.
std::string text_of(const RankFacts& facts);
RankFacts facts_from(const std::string& text);

std::string json_of(const RankFacts& facts); // one object on one line

// An interface of rank 0's host, and from which other hosts a connection to it came through.
struct Interface {
    std::string name, address;
    std::vector<std::string> reached, missed;
};

// Where a run would save.
struct Room {
    std::string folder;
    std::int64_t checkpoints = 0; // held at once
    std::int64_t bytes = 0;       // of one
    std::int64_t free = 0;
};

struct Survey {
    std::vector<RankFacts> ranks; // by rank
    std::vector<PairRate> pairs;
    std::vector<Interface> routes; // none on one host
    std::string folder;            // that all ranks should see
    std::optional<Room> room;      // with a config
    std::string device_memory;     // what MPI made of a GPU's memory: "works", "not tried: …", or what went wrong
    bool device_memory_fails = false;

    std::vector<std::string> hosts() const; // each once, by their first rank
};

} // namespace tessera
