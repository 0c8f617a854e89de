# SPDX-License-Identifier: Apache-2.0
"""Every loss, gradient norm, evaluation, weight and optimizer state has the same bits on 1, 2, 3 and 4 ranks, with 1 and
2 threads, in shared memory and by messages, at every ZeRO stage, in pipelines of every schedule, with activations kept or
computed again, in f32, bf16, f16 and f8. And what must differ does, so the comparison can fail."""
import os
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import runs

KEYS = {
    "data.files": ["text.txt"],
    "model.n_layers": 2, "model.n_heads": 4, "model.dim": 64, "model.dropout": 0.1,
    "training.steps": 20, "training.seq_len": 32, "training.global_batch_size": 16, "training.local_batch_size": 2,
    "lr_scheduler.warmup_steps": 5,
    "metrics.evaluate_every": 8, "metrics.evaluate_batches": 7,
    "checkpoint.interval": 0,
}
LLAMA = ["model.norm=rms_norm", "model.position_embedding=rope", "model.gated_mlp=true", "model.activation=silu",
         "model.n_kv_heads=2", "model.tied_head=false"]
DTYPES = {"llama": "f32", "f8": "bf16", "bf16-stochastic": "bf16", "pipeline": "f32", "bf16-pipeline": "bf16"}
MOMENTS = ("optimizer.first_moment/", "optimizer.second_moment/")


def run(name, *words, **options):
    runs.train("gpt.toml", f"run.folder={name}", *words, **options)
    return runs.read(name)


def check_content(result, learned):
    """That there is something to compare."""
    assert list(result.losses) == list(result.grad_norms) == list(range(1, 21)), result.losses
    assert list(result.evaluations) == [8, 16, 20], result.evaluations
    assert float(result.losses[20]) < float(result.losses[1]) - learned, f"it does not learn: {result.losses}"
    weights = [name for name in result.tensors if "/" not in name and not name.startswith("optimizer.")]
    assert len(weights) in (2 + 2 * 6 + 1, 2 + 5 * 6 + 1, 2 + 5 * 6 + 2, 1 + 2 * 7 + 2), weights
    for name in weights:
        for tensor in (name, *(moment + name for moment in MOMENTS)):
            assert np.isfinite(result.tensors[tensor]).all() and result.tensors[tensor].any(), tensor


def check_spread(dtype, others, more=()):
    """One rank with one thread against `others`: (name, words, options); all with the words `more`."""
    of_dtype = [f"training.dtype={DTYPES.get(dtype, dtype)}", *more]
    one = run(f"{dtype}-1", *of_dtype)
    check_content(one, 0.3 if dtype == "f16" else 0.5)  # in f16 some steps are skipped
    for name, words, options in others:
        folder = f"{dtype}-{name}"
        result = run(folder, *of_dtype, *words, **options)
        assert runs.writers(runs.checkpoints(folder)[-1]) == options.get("ranks", 1), f"{folder}: on other ranks"
        runs.expect_same(one, result, f"{dtype}: 1 rank and {name}")
    return one


def stages(degree, schedule):
    return [f"parallelism.pipeline_parallel_degree={degree}", f"parallelism.pipeline_schedule={schedule}"]


def replicas(degree):
    return [f"parallelism.data_parallel_replicate_degree={degree}"]


def check_padding():
    """A vocabulary of 4100 has 4224 rows in memory, which nobody sees."""
    keys = {name: value for name, value in KEYS.items() if name != "data.files"}
    runs.write_config("padded.toml", {**keys, "data.reader": "synthetic", "data.vocab_size": 4100, "model.dim": 16})
    runs.train("padded.toml", "run.folder=padded-1")
    runs.train("padded.toml", "run.folder=padded-3", ranks=3)
    one = runs.read("padded-1")
    assert one.tensors["embedding.weight"].shape == (4100, 16), "padding is saved"
    runs.expect_same(one, runs.read("padded-3"), "a vocabulary with padding: 1 rank and 3")


def check_skipped_steps():
    """In f16 the first steps overflow at the scale asked for: they are skipped and counted, the scale falls and grows."""
    for folder in ("f16-1", "f16-3-ranks"):
        steps = runs.metrics(folder, "step")
        skipped = [record["skipped_steps"] for record in steps]
        scales = [float(record["loss_scale"]) for record in steps]
        assert skipped == sorted(skipped) and 1 <= skipped[0] < skipped[-1] < 10, skipped
        assert all(after in (before / 2, before, before * 2) for before, after in zip(scales, scales[1:])), scales
        assert scales[0] == 268435456 and any(b == 2 * a for a, b in zip(scales, scales[1:])), scales
        assert [record["grad_norm"] is None for record in steps] == [b > a for a, b in zip([0] + skipped, skipped)], steps
    final = runs.read("f16-1").tensors
    assert float(final["optimizer.skipped_steps"]) == skipped[-1], final["optimizer.skipped_steps"]


def check_controls(one):
    """The comparison finds another seed, another order of sums, and one bit in one state."""
    for name, word in (("another seed", "training.seed=2"), ("other sums", "run.reproducible=false")):
        found = runs.differences(one, run(name.replace(" ", "-"), word))
        assert any(line.startswith("losses:") for line in found), f"{name}: losses: {found}"
        assert any(line.startswith("layers.0.mlp.up.weight:") for line in found), f"{name}: weights: {found}"
    name = MOMENTS[1] + "norm.scale"
    state = one.tensors[name].copy()
    state.view(np.uint32)[3] ^= 1
    found = runs.differences(one, one._replace(tensors={**one.tensors, name: state}))
    assert found == [f"{name}: 1 of 64 elements differ"], found


with runs.folder():
    runs.write_text("text.txt", 20_000)
    runs.write_config("gpt.toml", KEYS)
    two_threads = {"OMP_NUM_THREADS": "2"}
    f32 = check_spread("f32", [
        ("2-ranks", [], {"ranks": 2}),
        ("3-ranks", [], {"ranks": 3}),  # 4, 2 and 2 of the 8 micro-batches
        ("4-ranks", [], {"ranks": 4}),
        ("2-threads", ["run.threads=2"], {}),
        ("3-ranks-2-threads-messages", ["parallelism.shared_memory=false"], {"ranks": 3, "extra": two_threads}),
        ("4-ranks-messages-buckets", ["parallelism.shared_memory=false", "parallelism.bucket_cap_mb=0.02"], {"ranks": 4}),
        ("3-ranks-zero-1", ["parallelism.zero_stage=1", "parallelism.bucket_cap_mb=0.02"], {"ranks": 3}),
        ("4-ranks-zero-1-messages", ["parallelism.zero_stage=1", "parallelism.shared_memory=false"], {"ranks": 4}),
        ("2-ranks-zero-2", ["parallelism.zero_stage=2"], {"ranks": 2}),
        ("1-rank-recompute", ["training.recompute=full"], {}),
        ("2-ranks-zero-3-recompute", ["parallelism.zero_stage=3", "training.recompute=full"], {"ranks": 2}),
        ("3-ranks-recompute", ["training.recompute=selective"], {"ranks": 3}),
        ("4-ranks-zero-3", ["parallelism.zero_stage=3"], {"ranks": 4}), # evaluates 2, 2, 2 and 1 of 7 micro-batches
        ("2-replicas-of-2-zero-2", [*replicas(2), "parallelism.zero_stage=2"], {"ranks": 4}),
        ("3-replicas-of-2-zero-3-messages", [*replicas(3), "parallelism.zero_stage=3", "parallelism.shared_memory=false", "parallelism.zero_prefetch=2"], {"ranks": 6}),  # of 2, 2 and 4 micro-batches
    ])
    bf16 = check_spread("bf16", [
        ("2-ranks-2-threads", ["run.threads=2"], {"ranks": 2}),
        ("3-ranks-buckets", ["parallelism.bucket_cap_mb=0.02"], {"ranks": 3}),
        ("4-ranks-messages", ["parallelism.shared_memory=false"], {"ranks": 4}),
        ("4-ranks-zero-2", ["parallelism.zero_stage=2"], {"ranks": 4}),
        ("2-ranks-zero-3-messages", ["parallelism.zero_stage=3", "parallelism.shared_memory=false"], {"ranks": 2}),
        ("2-replicas-of-2-zero-1-messages", [*replicas(2), "parallelism.zero_stage=1", "parallelism.shared_memory=false", "parallelism.bucket_cap_mb=0.02"], {"ranks": 4}),
    ])
    f16 = check_spread("f16", [
        ("3-ranks", [], {"ranks": 3}),
        ("4-ranks-messages-buckets", ["parallelism.shared_memory=false", "parallelism.bucket_cap_mb=0.02"], {"ranks": 4}),
    ], ["training.loss_scale=268435456", "training.loss_scale_interval=8"])  # too much for the first steps
    stochastic = check_spread("bf16-stochastic", [
        ("3-ranks-2-threads", ["run.threads=2"], {"ranks": 3}),
    ], ["training.weight_rounding=stochastic"])
    f8 = check_spread("f8", [
        ("2-ranks-2-threads", ["run.threads=2"], {"ranks": 2}),
        ("3-ranks-messages", ["parallelism.shared_memory=false"], {"ranks": 3}),
    ], ["training.linear_dtype=f8"])
    check_spread("pipeline", [  # 5 layers; the head's weight is the embedding's, on another stage
        ("2-stages-gpipe", stages(2, "gpipe"), {"ranks": 2}),
        ("4-stages-zero-bubble", stages(4, "zero_bubble"), {"ranks": 4}),
        ("2-stages-interleaved", stages(2, "interleaved"), {"ranks": 2}),
        ("2-stages-2-ranks-zero-1", [*stages(2, "1f1b"), "parallelism.zero_stage=1"], {"ranks": 4}),
        ("2-stages-2-ranks-zero-3", [*stages(2, "zero_bubble"), "parallelism.zero_stage=3", "training.recompute=full"], {"ranks": 4}),
        ("2-stages-2-replicas-of-2-zero-3", [*stages(2, "1f1b"), *replicas(2), "parallelism.zero_stage=3", "parallelism.shared_memory=false"], {"ranks": 8}),
    ], ["model.n_layers=5"])
    check_spread("llama", [
        ("2-ranks", [], {"ranks": 2}),
        ("4-ranks-zero-3-recompute", ["parallelism.zero_stage=3", "training.recompute=full"], {"ranks": 4}),
        ("2-stages", stages(2, "1f1b"), {"ranks": 2}),
    ], LLAMA)
    check_spread("bf16-pipeline", [
        ("3-stages-messages", [*stages(3, "1f1b"), "parallelism.shared_memory=false", "training.recompute=selective"], {"ranks": 3}),
    ], ["model.n_layers=5", "model.tied_head=false"])
    for one, other, what in ((f32, bf16, "bf16"), (f32, f16, "f16"), (bf16, f8, "f8"),
                             (bf16, stochastic, "stochastic rounding")):
        assert any(line.startswith("losses:") for line in runs.differences(one, other)), f"{what} is not what it says"
    check_skipped_steps()
    check_padding()
    check_controls(f32)
print("the same bits however it is spread, and other bits where they must be")
