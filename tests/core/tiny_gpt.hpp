// SPDX-License-Identifier: Apache-2.0
// A GPT of a few thousand weights on synthetic data, for the tests of plan, executor and generation.
#pragma once

#include "core/config_catalog.hpp"
#include "core/data/options.hpp"
#include "core/run/experiment.hpp"
#include "kernels/error.hpp"

#include <memory>
#include <string>
#include <vector>

namespace tessera {

// 8 micro-batches of 2 rows of 12 tokens, unless `overrides` says otherwise.
inline Config tiny_config(const std::vector<std::string>& overrides = {}) {
    return Config::parse(R"(
        [model]
        n_layers = 2
        n_heads = 2
        dim = 16
        [training]
        steps = 5
        seq_len = 12
        global_batch_size = 16
        local_batch_size = 2
        seed = 5
        [lr_scheduler]
        warmup_steps = 2
        [optimizer]
        lr = 0.01
        [data]
        reader = "synthetic"
        vocab_size = 20
        synthetic_tokens = 4096
    )",
                         "tiny.toml", overrides, known_keys());
}

inline std::unique_ptr<Dataset> tiny_dataset(const Config& config) {
    return open_dataset(dataset_options(config, config.get(training_sequence),
                                        static_cast<std::uint64_t>(config.get(training_seed)), ""));
}

inline Experiment plan_tiny(const std::vector<std::string>& overrides, int rank, int ranks, int threads = 1) {
    const Config config = tiny_config(overrides);
    const Stream stream = CpuStream(threads);
    return plan_training(config, {rank, ranks, true}, tiny_dataset(config).get(), stream);
}

// Choices that change the graph, each with a name. "padded": rows of the tables that count for nothing.
struct Variant {
    std::string name;
    std::vector<std::string> overrides;
};

inline std::vector<Variant> variants() {
    return {
        {"plain", {}},
        {"bf16", {"training.dtype=bf16"}},
        {"dropout", {"model.dropout=0.1"}},
        {"bias", {"model.bias=true", "model.activation=silu"}},
        {"rms_norm", {"model.norm=rms_norm", "model.activation=relu"}},
        {"untied", {"model.tied_head=false"}},
        {"padded", {"data.vocab_size=4100", "data.synthetic_tokens=256", "data.validation_fraction=0.5"}},
        {"all", {"training.dtype=bf16", "model.dropout=0.1", "model.bias=true", "model.tied_head=false"}},
        {"buckets", {"parallelism.bucket_cap_mb=0.01"}},
        {"uneven", {"training.global_batch_size=14", "optimizer.name=sgd", "optimizer.lr=1"}},
        {"experts",
         {"model.moe_experts=3", "model.moe_every=2", "model.moe_capacity_factor=1", "model.bias=true",
          "model.dropout=0.1", "training.global_batch_size=8"}},
        {"llama",
         {"model.norm=rms_norm", "model.position_embedding=rope", "model.gated_mlp=true", "model.activation=silu",
          "model.n_heads=4", "model.n_kv_heads=2", "model.tied_head=false", "model.dropout=0.1"}},
        {"llama_experts",
         {"model.norm=rms_norm", "model.position_embedding=rope", "model.gated_mlp=true", "model.activation=silu",
          "model.n_heads=4", "model.n_kv_heads=1", "model.bias=true", "model.moe_experts=3",
          "model.moe_capacity_factor=1", "training.global_batch_size=8"}},
        {"f16", {"training.dtype=f16"}},
        {"stochastic", {"training.dtype=bf16", "training.weight_rounding=stochastic"}},
        {"f8", {"training.dtype=bf16", "training.linear_dtype=f8", "training.seq_len=16"}},
    };
}

inline Variant variant_named(std::string_view name) {
    for (const Variant& variant : variants())
        if (variant.name == name) return variant;
    throw InternalError(std::string(name));
}

} // namespace tessera
