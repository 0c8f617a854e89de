// SPDX-License-Identifier: Apache-2.0
// What a layout takes at least, in time and memory, before it is planned: it follows from the model on the ranks of its
// inner axes alone (one stage, one data rank), of which there are few.
#pragma once

#include "core/cost/machine.hpp"
#include "core/run/experiment.hpp"
#include "parallel/layout/schedule.hpp"

namespace tessera {

// Layers are alike, but for the first and the last; so are the layers of a pipeline's chunks.
inline constexpr std::int64_t few_layers = 2;

// The blocks of a GPT, which are alike: a few tell of all. 0: the model is made of layers of any kind.
std::int64_t equal_blocks(const Config& config);

// Of a quantity that grows with the layers: a model of few layers tells of one of many.
struct ByDepth {
    double without = 0; // layers: embedding, head, loss
    double layer = 0;

    double of(double layers) const { return without + layers * layer; }
};

// Forward and backward of one micro-batch, with the collectives of the inner axes, and what a pipeline cuts by.
struct LayerWork {
    ChunkTime seconds; // backward: what leads on to the layer before; weights: the rest
    double flops = 0;  // forward
};

// One micro-batch on the ranks of the inner axes.
struct InnerCost {
    LayerWork layer, before, behind; // one layer, and what stands before and behind all
    ByDepth resting;                 // bytes: weights at rest
    ByDepth in_use;                  // copies of them that are made before the micro-batches
    ByDepth gradients, states;
    ByDepth activations;

    double seconds(std::int64_t layers) const; // of all, one after the other
};

// `config` says a layout of one stage and one data rank with one micro-batch on `ranks` ranks. Throws as plan_training
// does.
InnerCost inner_cost(Config config, int ranks, bool one_host, const Dataset* dataset, const Stream& stream,
                     const Machine& machine);

// The outer axes of a layout.
struct Outer {
    Pipeline pipeline;  // its micro-batches are those of the data rank that has most
    int data_ranks = 1; // of all replicas
    int replicas = 1;
    int zero_stage = 0;
    bool reproducible = true;
    std::int64_t layers = 1; // equal_blocks()
};

// Of a step: no stage works less than an even share of all layers.
double least_seconds(const InnerCost& cost, const Outer& outer);

// Of a step's micro-batches on the stages of its pipeline, whose messages and sums take no time. Takes long to find.
double seconds_of_pipeline(const InnerCost& cost, const Outer& outer);

// Bytes of the rank that needs most: of a stage's share of what the optimizer keeps and, but for roundings, of what the
// first stage keeps of its micro-batches under way.
double least_memory(const InnerCost& cost, const Outer& outer);

} // namespace tessera
