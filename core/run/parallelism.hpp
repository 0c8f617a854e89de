// SPDX-License-Identifier: Apache-2.0
// The [parallelism] section: from its keys to a mesh and a layout, and what they ask of model and batch.
#pragma once

#include "core/config.hpp"
#include "core/plan/plan.hpp"

namespace tessera {

inline constexpr Key<std::int64_t> parallelism_data{"parallelism.data_parallel_degree", -1,
                                                    "ranks that share out the samples; -1: what is left"};
inline constexpr Key<std::int64_t> parallelism_replicate{
    "parallelism.data_parallel_replicate_degree", 1,
    "hybrid sharding (HSDP): so many times the data ranks, each time with all that zero_stage shares out; -1: what is "
    "left"};
inline constexpr Key<std::int64_t> parallelism_pipeline{
    "parallelism.pipeline_parallel_degree", 1, "ranks that share out the layers, one stage each; -1: what is left"};
inline constexpr Key<std::string> parallelism_schedule{
    "parallelism.pipeline_schedule", "1f1b",
    "order of a stage's micro-batches: gpipe, 1f1b, interleaved (several chunks a stage), or zero_bubble"};
inline constexpr Key<std::int64_t> parallelism_chunks{"parallelism.pipeline_chunks", 2,
                                                      "chunks of layers for each stage of an interleaved pipeline"};
inline constexpr Key<std::int64_t> parallelism_context{
    "parallelism.context_parallel_degree", 1,
    "ranks that share out the sequence, and in attention the heads or the keys; -1: what is left"};
inline constexpr Key<std::string> parallelism_context_method{
    "parallelism.context_parallel_method", "ulysses",
    "attention of context parallelism: ulysses (its ranks share out the heads) or ring (keys and values travel)"};
inline constexpr Key<std::int64_t> parallelism_expert{
    "parallelism.expert_parallel_degree", 1,
    "ranks that share out the samples of a micro-batch and, in mixtures of experts, the experts; -1: what is left"};
inline constexpr Key<std::int64_t> parallelism_sample{
    "parallelism.sample_parallel_degree", 1,
    "ranks that share out the samples of a micro-batch; batch norms take the statistics of all; -1: what is left"};
inline constexpr Key<std::int64_t> parallelism_spatial{
    "parallelism.spatial_parallel_degree", 1,
    "ranks that share out the height of images, which convolutions and poolings exchange the edges of; -1: what is "
    "left"};
inline constexpr Key<std::int64_t> parallelism_spatial_width{
    "parallelism.spatial_parallel_width_degree", 1,
    "ranks that share out the width of images in the same way; -1: what is left"};
inline constexpr Key<std::int64_t> parallelism_tensor{
    "parallelism.tensor_parallel_degree", 1,
    "ranks that share out heads, hidden units and vocabulary; -1: what is left"};
inline constexpr Key<bool> parallelism_sequence{
    "parallelism.sequence_parallel", false,
    "the ranks of tensor parallelism share out the sequence, too, between the layers that they share"};
inline constexpr Key<std::int64_t> parallelism_zero{"parallelism.zero_stage", 0,
                                                    "the ranks of the data axis share out: 0 nothing, 1 the "
                                                    "optimizer's state, 2 also gradients, 3 also weights at rest"};
inline constexpr Key<std::int64_t> parallelism_prefetch{
    "parallelism.zero_prefetch", 1,
    "zero_stage 3, on GPUs and by messages: weights are gathered so many layers before their own; 0: when it begins"};
inline constexpr Key<bool> parallelism_shared_memory{
    "parallelism.shared_memory", true, "ranks of one host reduce gradients in shared memory instead of by messages"};
inline constexpr Key<double> parallelism_bucket{
    "parallelism.bucket_cap_mb", 0,
    "MiB of gradients reduced at a time, during the backward pass; 0: 25 on GPUs, all at once on CPUs"};
inline constexpr Key<bool> run_reproducible{
    "run.reproducible", true, "the same bits on any number of ranks; costs log2(micro-batches per rank) gradient sums"};

// What a run looks like from one of its ranks.
struct RankView {
    int rank = 0;
    int ranks = 1;
    bool one_host = true; // all ranks are on one host
};

// The mesh of the [parallelism] section. ConfigError when its product is not the number of ranks, naming every factor.
Mesh make_mesh(const Config& config, int ranks);

// Strategies by axis, and how the ranks share out `micro_batches`. ConfigError for what no model could be trained on.
Layout make_layout(const Config& config, const RankView& view, std::int64_t micro_batches, const Stream& stream);

// Rows of a micro-batch are shared out over so many ranks, in equal parts; 1: in parts of any size.
std::int64_t rows_together(const Mesh& mesh);

// Each throws ConfigError.
// Samples of a micro-batch go to the ranks of the expert axis and, on their way to the experts, of the context axis;
// each rank of the sample axis has as many of them.
void check_rows(const Config& config, const Mesh& mesh, std::int64_t rows);
// A model that reads no images has none to share out.
void check_images(const Config& config, const Graph& graph, const Mesh& mesh);
// Roles may say that a weight is shared out where it can be: not one that can is no tensor parallelism.
void check_tensor(const Config& config, const Graph& graph, const Mesh& mesh, const PlacedGraph& placed);

} // namespace tessera
