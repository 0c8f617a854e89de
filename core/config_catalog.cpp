// SPDX-License-Identifier: Apache-2.0
// The list of keys. A key that stands here and is read by no component is refused by Config::refuse_unread.
#include "core/config_catalog.hpp"

#include "core/data/options.hpp"
#include "core/log.hpp"
#include "core/model.hpp"
#include "core/optimizers/optimizer.hpp"
#include "core/optimizers/schedule.hpp"
#include "core/run/folder.hpp"
#include "core/run/memory_limit.hpp"
#include "core/run/metrics.hpp"
#include "core/run/trainer.hpp"

namespace tessera {

std::vector<KeyInfo> known_keys() {
    return {
        key_info(checkpoint_interval),
        key_info(checkpoint_keep),
        key_info(checkpoint_resume),
        key_info(data_files),
        key_info(data_order),
        key_info(data_reader),
        key_info(data_synthetic_tokens),
        key_info(data_tokenizer),
        key_info(data_validation_files),
        key_info(data_validation_fraction),
        key_info(data_vocabulary),
        key_info(schedule_decay_ratio),
        key_info(schedule_decay_steps),
        key_info(schedule_min_factor),
        key_info(schedule_type),
        key_info(schedule_warmup),
        key_info(metrics_color),
        key_info(evaluate_batches),
        key_info(evaluate_every),
        key_info(metrics_log_every),
        key_info(model_activation),
        key_info(model_bias),
        key_info(model_dim),
        key_info(model_dropout),
        key_info(model_hidden_dim),
        key_info(model_deviation),
        key_info(model_balance),
        key_info(model_capacity),
        key_info(model_moe_every),
        key_info(model_experts),
        key_info(model_choices),
        key_info(model_z),
        key_info(model_heads),
        key_info(model_layers),
        key_info(model_norm),
        key_info(model_tied_head),
        key_info(model_type),
        key_info(optimizer_beta1),
        key_info(optimizer_beta2),
        key_info(optimizer_epsilon),
        key_info(optimizer_rate),
        key_info(optimizer_momentum),
        key_info(optimizer_name),
        key_info(optimizer_nesterov),
        key_info(optimizer_decay),
        key_info(parallelism_bucket),
        key_info(parallelism_context),
        key_info(parallelism_context_method),
        key_info(parallelism_data),
        key_info(parallelism_replicate),
        key_info(parallelism_expert),
        key_info(parallelism_chunks),
        key_info(parallelism_pipeline),
        key_info(parallelism_schedule),
        key_info(parallelism_sequence),
        key_info(parallelism_shared_memory),
        key_info(parallelism_tensor),
        key_info(parallelism_prefetch),
        key_info(parallelism_zero),
        key_info(run_cuda_graph),
        key_info(run_device),
        key_info(run_folder),
        key_info(run_memory_limit),
        key_info(run_name),
        key_info(run_reproducible),
        key_info(run_share_gpus),
        key_info(run_threads),
        key_info(training_dtype),
        key_info(training_global_batch),
        key_info(training_accumulation),
        key_info(training_linear_dtype),
        key_info(training_local_batch),
        key_info(loss_scale_start),
        key_info(loss_scale_backoff),
        key_info(loss_scale_growth),
        key_info(loss_scale_interval),
        key_info(training_max_norm),
        key_info(training_recompute),
        key_info(training_seed),
        key_info(training_sequence),
        key_info(training_steps),
        key_info(training_weight_rounding),
    };
}

} // namespace tessera
