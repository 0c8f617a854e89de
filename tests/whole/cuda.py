# SPDX-License-Identifier: Apache-2.0
"""The program on GPUs, here emulated ones: losses are the CPU's within a tolerance, the same bits come out of runs on
1, 2 and 4 ranks that reduce through NCCL, and checkpoints go from GPUs to CPUs and back.

On real GPUs TESSERA and TESSERA_EMULATED are one program, and TESSERA_GPU_RANKS says which rank counts there are GPUs for
beside one: "2 4", or "" on a machine with one GPU. TESSERA_SHARE_GPUS=1: those ranks share the GPUs that there are."""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import runs

if not os.environ.get("TESSERA_EMULATED"):
    print("built without CUDA: nothing to test")
    sys.exit(77)
del os.environ["TESSERA_EMULATION_DEVICES"]  # eight GPUs
RANKS = [int(word) for word in os.environ.get("TESSERA_GPU_RANKS", "2 4").split()]

KEYS = {
    "data.files": ["text.txt"], "run.device": "cuda",
    "model.n_layers": 2, "model.n_heads": 2, "model.dim": 32, "model.dropout": 0.1,
    "training.steps": 20, "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 2,
    "lr_scheduler.warmup_steps": 5, "optimizer.lr": 3e-3,
    "metrics.evaluate_every": 10, "metrics.evaluate_batches": 4,
    "checkpoint.interval": 10, "parallelism.bucket_cap_mb": 0.02,
    "run.share_gpus": os.environ.get("TESSERA_SHARE_GPUS") == "1",
}


def run(name, *words, **options):
    runs.train("gpt.toml", f"run.folder={name}", *words, **options)
    return runs.read(name)


def expect_close(one, other, what, allowed):
    assert list(one.losses) == list(other.losses), what
    for step, loss in one.losses.items():
        gap = abs(float(loss) - float(other.losses[step]))
        assert gap <= allowed * float(loss), f"{what}: step {step}: {loss} and {other.losses[step]}"


def check_dtype(dtype, allowed, *more):
    """All of a step is recorded and replayed as CUDA graphs."""
    words = (f"training.dtype={'bf16' if dtype == 'f8' else dtype}", *more)
    cpu = run(f"{dtype}-cpu", "training.dtype=f32" if dtype == "tf32" else words[0], *more, "run.device=cpu")
    one = run(f"{dtype}-1", *words)
    expect_close(cpu, one, f"{dtype}: CPU and GPU", allowed)
    assert float(one.losses[20]) < float(one.losses[1]) - 0.3, f"it does not learn: {one.losses}"
    for ranks in RANKS if dtype in ("f32", "bf16") else RANKS[:1]:
        runs.expect_same(one, run(f"{dtype}-{ranks}", *words, ranks=ranks), f"{dtype}: 1 and {ranks} GPUs")


def check_layouts():
    """GPUs that share out a micro-batch, recorded with its collectives: near one GPU, and the same bits however many data
    ranks there are beside, and at any stage of ZeRO. Stages of a pipeline: the bits of one GPU."""
    one, two = run("alone", "model.dropout=0"), {}
    tensor = ["parallelism.tensor_parallel_degree=2", "parallelism.sequence_parallel=true"]
    for name, ranks, words in (("tensor", 2, tensor), ("tensor", 4, [*tensor, "parallelism.zero_stage=3"]),
                               ("context", 2, ["parallelism.context_parallel_degree=2"]),
                               ("ring", 4, ["parallelism.context_parallel_degree=4", "parallelism.context_parallel_method=ring"])):
        if ranks not in RANKS:
            continue
        found = run(f"{name}-{ranks}", "model.dropout=0", *words, ranks=ranks)
        expect_close(one, found, f"{name} parallelism on {ranks} GPUs", 2e-5)
        runs.expect_same(two.setdefault(name, found), found, f"{name} parallelism: {ranks} GPUs and fewer")


    for schedule, ranks, words in (("zero_bubble", 2, []), ("1f1b", 4, ["parallelism.zero_stage=3"])):
        if ranks in RANKS:
            words = ["parallelism.pipeline_parallel_degree=2", f"parallelism.pipeline_schedule={schedule}", *words]
            runs.expect_same(one, run(f"pipeline-{ranks}", "model.dropout=0", *words, ranks=ranks), f"{schedule} on {ranks} GPUs")
    if 4 in RANKS:  # weights on a stream of their own, replicas' sums beside the backward pass
        words = ["parallelism.data_parallel_replicate_degree=2", "parallelism.zero_stage=3"]
        runs.expect_same(one, run("replicas", "model.dropout=0", *words, ranks=4), "2 replicas of 2 GPUs")


def check_resume():
    """Ten steps on as many GPUs as there are, then ten on one: the bits of twenty on one. And on CPUs from there."""
    runs.train("gpt.toml", "run.folder=part", "training.steps=10", "lr_scheduler.decay_steps=20", ranks=RANKS[0] if RANKS else 1)
    runs.expect_same(run("whole", "lr_scheduler.decay_steps=20"), run("part", "lr_scheduler.decay_steps=20"), "resumed")
    runs.train("gpt.toml", "run.folder=part", "training.steps=22", "lr_scheduler.decay_steps=20", "run.device=cpu", ranks=2)
    assert np.isfinite(float(runs.read("part").losses[22]))
    out = runs.tessera("evaluate", "part").out
    assert "validation loss:" in out, out


def check_sharing():
    """Three ranks take turns on two GPUs."""
    one = run("not-shared", "training.steps=4", "metrics.evaluate_every=4", "checkpoint.interval=4")
    shared = run("shared", "training.steps=4", "metrics.evaluate_every=4", "checkpoint.interval=4", "run.share_gpus=true", ranks=3,
                 extra={"TESSERA_EMULATION_DEVICES": "2"})
    runs.expect_same(one, shared, "1 rank and 3 on 2 GPUs")
    with open("shared/logs/rank-0000.log", encoding="utf-8") as log:
        assert "run.cuda_graph is off: ranks that share a GPU" in log.read()
    with open("not-shared/logs/rank-0000.log", encoding="utf-8") as log:
        assert "run.cuda_graph" not in log.read()
    found = runs.train("gpt.toml", "run.share_gpus=true", "run.cuda_graph=true", ranks=2, code=2,
                       extra={"TESSERA_EMULATION_DEVICES": "1"}).err
    assert "run.cuda_graph = true: ranks that share a GPU" in found, found


def check_tuning():
    """What rank 0 has timed is kept in the run's folder: with it, runs on any number of GPUs have the same bits, and a resumed
    run times nothing. The emulation's first algorithm is slow once, so that another is chosen, which no clock finds again."""
    words = ("training.dtype=bf16", "model.dropout=0", "training.steps=4", "metrics.evaluate_every=4", "checkpoint.interval=4")
    plain, one = run("not-tuned", *words), run("tuned-1", *words, "run.tune=true", extra={"TESSERA_EMULATION_SLOW": "whole"})
    assert plain.losses != one.losses, "the choice makes no difference to the bits"
    with open("tuned-1/tuning.txt", encoding="utf-8") as file:
        kept = file.read()
    for ranks in RANKS:
        os.makedirs(f"tuned-{ranks}")
        with open(f"tuned-{ranks}/tuning.txt", "w", encoding="utf-8") as file:
            file.write(kept)
        runs.expect_same(one, run(f"tuned-{ranks}", *words, "run.tune=true", ranks=ranks), f"tuned: 1 and {ranks} GPUs")
        with open(f"tuned-{ranks}/tuning.txt", encoding="utf-8") as file:
            assert file.read() == kept, f"{ranks} ranks timed again"
    with open("tuned-1/tuning.txt", "w", encoding="utf-8") as file:
        file.write(kept.replace(" : ", " ; "))
    found = runs.train("gpt.toml", "run.folder=tuned-1", *words, "run.tune=true", code=2).err
    assert "is no choice" in found and "tuning.txt" in found, found


def check_refusals():
    found = runs.train("gpt.toml", "run.device=cpu", "training.dtype=tf32", code=2).err
    assert "is a way that GPUs multiply" in found, found
    found = runs.train("gpt.toml", "run.device=gpu", code=2).err
    assert "no device named 'gpu'" in found, found
    found = runs.train("gpt.toml", "run.device=cuda", "run.share_gpus=false", ranks=2, code=2, extra={"TESSERA_EMULATION_DEVICES": "1"}).err
    assert "this host has 1 GPU for its 2 ranks" in found, found
    if runs.REAL_PROGRAM == runs.PROGRAM:
        return
    found = runs.train("gpt.toml", "training.dtype=bf16", "training.linear_dtype=f8", code=2,
                       extra={"TESSERA_EMULATION_CAPABILITY": "80"}).err
    assert "wants GPUs of compute capability 8.9 or more" in found, found
    emulated, runs.PROGRAM = runs.PROGRAM, runs.REAL_PROGRAM  # CUDA's own runtime, which finds no GPU on the machines that run this
    found = runs.train("gpt.toml", "run.device=cuda", code=2).err
    assert "this host has 0 GPUs for its 1 rank" in found, found
    runs.PROGRAM = emulated


def check_memory():
    """A run that its GPU has no room for is refused before it trains, and the changes that it names make it fit."""
    small = {"TESSERA_EMULATION_MEMORY": str(44 << 20)}  # of which cuBLASLt has 32 MiB
    keys = ["model.dim=128", "training.seq_len=64", "training.local_batch_size=8", "training.steps=2", "metrics.evaluate_every=0", "checkpoint.interval=0"]
    found = runs.train("gpt.toml", "run.folder=no-room", *keys, code=2, extra=small).err
    need, free = re.search(r"rank 0 needs ([\d.]+ MiB) on its GPU, of which ([\d.]+ MiB) are free:\n", found).groups()
    assert re.search(r"^  total +[\d,]+ +", found, re.MULTILINE) and float(free.split()[0]) <= 44 < float(need.split()[0]), found
    ways = re.findall(r"^  ([\w.]+=\S+): [\d.]+ [KM]iB$", found.split("the cheapest first:\n")[1], re.MULTILINE)
    assert 1 <= len(ways) <= 3 and not os.path.exists("no-room/metrics.jsonl"), found
    for way in ways:
        runs.train("gpt.toml", f"run.folder=room-{way}", *keys, way, extra=small)


with runs.folder():
    runs.write_text("text.txt", 20_000)
    runs.write_config("gpt.toml", KEYS)
    check_dtype("f32", 2e-5)
    check_dtype("tf32", 5e-3, "model.dropout=0")
    check_dtype("bf16", 5e-3, "model.dropout=0")
    check_dtype("f8", 1e-2, "model.dropout=0", "training.linear_dtype=f8")
    check_dtype("f16", 1e-3, "model.dropout=0", "training.loss_scale=16777216")  # the first steps are skipped
    for optimizer in ("adamw", "sgd"):
        words = (f"optimizer.name={optimizer}",)
        recorded = run(f"{optimizer}-recorded", *words)  # with dropout
        runs.expect_same(recorded, run(f"{optimizer}-not-recorded", *words, "run.cuda_graph=false"), "recorded and not")
    check_layouts()
    check_resume()
    if runs.REAL_PROGRAM != runs.PROGRAM:
        check_sharing()
        check_memory()
        check_tuning()
    check_refusals()
print(f"GPUs give the CPU's losses, and the same bits on {' and '.join(map(str, [1] + RANKS))} of them")
