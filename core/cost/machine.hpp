// SPDX-License-Identifier: Apache-2.0
// What a machine can do, in the constants of the cost model: they come from a file (cluster/machines, `tessera bench`).
#pragma once

#include "core/config.hpp"
#include "kernels/tensor.hpp"
#include "parallel/layout/redistribute.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

// A message of n bytes takes alpha + n / beta seconds (Hockney 1994).
struct Link {
    double alpha = 0; // seconds
    double beta = 0;  // bytes per second that a rank sends while all ranks of its node do
};

// How ranks reach each other, by the kind of collective: libraries come nearer to the wires in some than in others.
struct Links {
    Link send, all_reduce, all_gather, all_to_all;

    bool known() const { return send.beta > 0; } // else the file says nothing of them
    const Link& of(Collective collective) const; // all_gather: of reduce_scatter and broadcast, too
};

struct Machine {
    std::string file;
    double f32_flops = 0, tf32_flops = 0, f16_flops = 0, bf16_flops = 0, f8_flops = 0; // of a rank, per second
    double product_efficiency = 1;   // the share of these that products reach
    double attention_efficiency = 1; // and attention in 16 bits
    double f32_attention_efficiency = 1;
    double memory_bandwidth = 0;   // bytes per second that a rank reads and writes
    double call_seconds = 0;       // of a kernel beyond its work
    bool gpu = false;              // has streams: sums over the data axis go on beside the backward pass
    std::int64_t memory_bytes = 0; // of a rank
    int ranks_per_node = 1;
    Links within_node, between_nodes;

    // Of products whose factors are of this type.
    double peak_flops(DType dtype) const;
    double product_flops(DType dtype) const { return peak_flops(dtype) * product_efficiency; }
    double attention_flops(DType dtype) const {
        return peak_flops(dtype) * (dtype == DType::f32 ? f32_attention_efficiency : attention_efficiency);
    }
};

// Keys of the sections [rank], [node] and [network]; every file of a machine is read by them.
std::vector<KeyInfo> machine_keys();

// Throws ConfigError as Config::load does, and for constants that are missing or cannot be.
Machine read_machine(const std::string& file);
Machine parse_machine(std::string_view toml, const std::string& name);

// As a file that read_machine reads to the same constants. `comment` opens it, each line behind a '#'.
std::string machine_toml(const Machine& machine, std::string_view comment);

} // namespace tessera
