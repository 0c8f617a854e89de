# SPDX-License-Identifier: Apache-2.0
"""What `tessera plan` says a rank will hold is what that rank of the run allocates, kind by kind, to the byte; and the
process really grows by it."""
import os
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

os.environ["TESSERA_EMULATION_DEVICES"] = "4"
KEYS = {
    "data.files": ["text.txt"], "data.tokenizer": "byte",
    "model.n_layers": 2, "model.n_heads": 4, "model.dim": 48,
    "training.steps": 1, "training.seq_len": 24, "training.global_batch_size": 16, "training.local_batch_size": 2,
    "checkpoint.interval": -1, "run.device": "cpu",
}
KINDS = ["weights", "gradients", "optimizer", "activations", "workspace", "communication", "data", "checkpoint"]

# (words, ranks): 8 micro-batches of 2 rows unless said otherwise
LLAMA = ["model.norm=rms_norm", "model.position_embedding=rope", "model.gated_mlp=true", "model.activation=silu", "model.n_kv_heads=2"]
CASES = [
    ([], 1), ([], 2), ([], 3), ([], 4),
    (["training.dtype=bf16"], 1), (["training.dtype=bf16", "parallelism.shared_memory=false"], 3),
    (["training.dtype=f16"], 2), (["training.dtype=bf16", "training.linear_dtype=f8"], 2),
    (["training.dtype=bf16", "training.weight_rounding=stochastic"], 1),
    (["training.local_batch_size=16"], 1), (["training.local_batch_size=0", "training.gradient_accumulation_steps=4"], 2),
    (["training.ema_decay=0.99", "parallelism.zero_stage=1"], 2), (["training.ema_decay=0.99", "parallelism.pipeline_parallel_degree=2", "training.dtype=bf16"], 2),
    (["optimizer.name=sgd"], 2), (["optimizer.name=sgd", "optimizer.momentum=0"], 1),
    (["data.validation_fraction=0"], 2), (["data.tokenizer=character"], 2),
    (["parallelism.shared_memory=false"], 4), (["parallelism.bucket_cap_mb=0.1"], 3), (["run.reproducible=false"], 2), (["model.dropout=0.1", "run.threads=2"], 1),
    (["parallelism.zero_stage=1", "checkpoint.interval=2"], 3), (["parallelism.zero_stage=2", "training.dtype=bf16", "guard.policy=rollback", "guard.snapshot_interval=1", "guard.repeat_interval=1"], 2), (["parallelism.zero_stage=3"], 4),
    (["parallelism.zero_stage=1", "parallelism.data_parallel_replicate_degree=2"], 4),
    (["parallelism.zero_stage=3", "parallelism.data_parallel_replicate_degree=2", "parallelism.shared_memory=false"], 4),
    (["training.recompute=auto", "run.memory_limit=2.3MiB", "data.prefetch=4"], 1), (["training.recompute=full", "parallelism.zero_stage=3"], 2),
    (["parallelism.context_parallel_degree=2"], 2), (["parallelism.context_parallel_degree=2", "parallelism.tensor_parallel_degree=2"], 4),
    (["parallelism.context_parallel_degree=3", "parallelism.context_parallel_method=ring", "parallelism.zero_stage=1", "training.dtype=bf16"], 3),
    (["parallelism.context_parallel_degree=2", "parallelism.context_parallel_method=ring", "parallelism.tensor_parallel_degree=2", "parallelism.sequence_parallel=true"], 4),
    (["parallelism.tensor_parallel_degree=2"], 2), (["parallelism.tensor_parallel_degree=2", "parallelism.sequence_parallel=true", "parallelism.zero_stage=3", "parallelism.shared_memory=false"], 4),
    (["parallelism.pipeline_parallel_degree=2", "model.n_layers=3"], 2), (["parallelism.pipeline_parallel_degree=2", "parallelism.pipeline_schedule=zero_bubble", "parallelism.zero_stage=3", "training.dtype=bf16"], 4),
    (["parallelism.pipeline_parallel_degree=2", "parallelism.pipeline_schedule=interleaved", "parallelism.shared_memory=false", "model.n_layers=5"], 2),
    (["model.bias=true", "model.tied_head=false", "model.norm=rms_norm", "model.activation=silu"], 1),
    (["parallelism.tensor_parallel_degree=2", "model.bias=true", "checkpoint.interval=100"], 2),
    (["parallelism.tensor_parallel_degree=4", "data.tokenizer=character", "parallelism.shared_memory=false"], 4),
    (["parallelism.tensor_parallel_degree=2", "parallelism.sequence_parallel=true", "training.seq_len=23",
      "training.dtype=bf16", "parallelism.shared_memory=false"], 4),
    ([*LLAMA, "training.dtype=bf16", "training.recompute=selective"], 1),
    ([*LLAMA, "parallelism.tensor_parallel_degree=2", "parallelism.context_parallel_degree=2", "parallelism.context_parallel_method=ring"], 4),
    (["lora.rank=2"], 1), ([*LLAMA, "lora.rank=2", "parallelism.zero_stage=2"], 2),
]
if os.environ["TESSERA_EMULATED"]:  # workspaces are those that cuBLASLt and NCCL want
    CASES += [(["run.device=cuda", "training.dtype=bf16"], 1), (["run.device=cuda", "parallelism.zero_stage=3"], 2),
              (["run.device=cuda", "run.reproducible=false", "parallelism.tensor_parallel_degree=2"], 4)]


def number(text):
    return int(text.replace(",", ""))


def planned(words, ranks, rank, options=()):
    out = runs.tessera("plan", "-n", ranks, "--rank", rank, *options, "gpt.toml", *words).out
    table = out[out.index("Memory of a rank, bytes"):]
    return {kind: number(bytes_) for kind, bytes_ in re.findall(r"^  (\w+) +([\d,]+)  +[\d.]+ MiB$", table, re.MULTILINE)}


def allocated(run_folder, rank):
    said = pathlib.Path(run_folder, "logs", f"rank-{rank:04d}.log").read_text(encoding="utf-8")
    total, kinds = re.search(r"allocated ([\d,]+) bytes \((.*)\)$", said, re.MULTILINE).groups()
    return {"total": number(total), **{kind: number(bytes_) for kind, bytes_ in re.findall(r"(\w+) ([\d,]+)", kinds)}}


def check_case(index, words, ranks):
    folder = f"run-{index}"
    runs.train("gpt.toml", f"run.folder={folder}", *words, ranks=ranks)
    by_rank = [planned(words, ranks, rank) for rank in range(ranks)]
    for rank, plan in enumerate(by_rank):
        assert list(plan) == KINDS + ["total"], f"{words}: kinds {list(plan)}"
        assert plan["total"] == sum(plan[kind] for kind in KINDS), f"{words}: the kinds do not add up: {plan}"
        found = allocated(folder, rank)
        assert found == plan, f"{words} on {ranks} ranks, rank {rank}: planned {plan}, allocated {found}"
    return by_rank[0]


def check_meaning(plans):
    """The figures follow from what was asked for: they are no constants that happen to agree."""
    one, two = plans[0], plans[1]
    assert one["gradients"] > two["gradients"], "8 micro-batches on a rank need one sum more than 4"
    parameters = number(re.search(r"Parameters ([\d,]+)", runs.tessera("plan", "gpt.toml").out).group(1))
    assert 4 * parameters <= one["weights"] < 4.2 * parameters, f"{parameters} parameters in {one['weights']} bytes"
    assert 8 * parameters <= one["optimizer"] < 8.4 * parameters, f"two moments in {one['optimizer']} bytes"
    copied = plans[CASES.index((["parallelism.zero_stage=1", "checkpoint.interval=2"], 3))]
    assert one["checkpoint"] == 0 < copied["checkpoint"], "a copy only where saves go on beside training"
    assert 4 * parameters < copied["checkpoint"] < 6.5 * parameters, f"weights and two moments of {parameters} parameters among three ranks: {copied}"
    no_momentum = plans[CASES.index((["optimizer.name=sgd", "optimizer.momentum=0"], 1))]
    assert no_momentum["optimizer"] == 0, no_momentum
    far = planned([], 2, 0, ["--many-hosts"])
    messages = runs.tessera("plan", "-n", 2, "gpt.toml", "parallelism.shared_memory=false").out
    assert far == planned(["parallelism.shared_memory=false"], 2, 0), "two ways of having no shared memory"
    assert far["communication"] != two["communication"] or far == two, far
    assert "by messages" in messages and "in shared memory" not in messages, messages


def check_limit():
    """The case above took the least recomputation that fits, and says so in plan, log and config; a limit that not even full
    recomputation keeps is refused."""
    words, index = next((words, index) for index, (words, _) in enumerate(CASES) if "training.recompute=auto" in words)
    chosen = "recompute: selective, the least that fits run.memory_limit = 2.3MiB (none 2.32 MiB, selective 2.27 MiB)"
    assert runs.tessera("plan", "gpt.toml", *words).out.startswith(chosen + "\nMesh: "), "the plan does not say what it chose"
    assert chosen in pathlib.Path(f"run-{index}/logs/rank-0000.log").read_text(encoding="utf-8")
    assert 'recompute = "selective"\n' in pathlib.Path(f"run-{index}/config.toml").read_text(encoding="utf-8")
    for words in (["training.recompute=auto", "run.memory_limit=2MiB", "data.prefetch=4"], ["run.memory_limit=2MiB", "data.prefetch=4"]):
        err = runs.tessera("plan", "gpt.toml", *words, code=2).err
        needed, kinds = re.search(r"rank 0 needs ([\d.]+ MiB), more than (?s:(.*))total", err).groups()
        assert needed == ("2.17 MiB" if len(words) == 3 else "2.32 MiB") and all(kind in kinds for kind in KINDS), err


def check_traffic():
    """The collectives of each axis add up to its total; without ranks there are none. That the communicators count as much
    is tests/core/mpi/traffic.cpp's."""
    words = ["parallelism.tensor_parallel_degree=2", "parallelism.sequence_parallel=true"]
    out = runs.tessera("plan", "-n", 4, "gpt.toml", *words).out
    axes = re.split("^  over ", out[out.index("Collectives of a step"):out.index("Memory of a rank")], flags=re.MULTILINE)[1:]
    assert [axis.splitlines()[0] for axis in axes] == ["'data' (2 ranks), in shared memory", "'tensor' (2 ranks), in shared memory"]
    for axis in axes:
        *parts, total = [number(line.split()[-1]) for line in axis.splitlines()[1:] if line]
        assert sum(parts) == total > 0, axis
    for line in (r"forward +reduce_scatter +5 calls in each of 4 micro-batches ", r"gradients +all_reduce +\d+ sums in \d+ buckets, from ",
                 r"update +all_reduce +1 call "):
        assert re.search(line, axes[1]), f"expected '{line}', found: {axes[1]}"
    assert "tensor 2: every run of this layout has the same bits" in out and "number of data ranks (up to 8)" in out, out
    alone = runs.tessera("plan", "gpt.toml").out
    assert "none: one rank" in alone and "number of ranks (up to 8)" in alone and "layout" not in alone, alone


def check_configs():
    """The large models of configs/ are planned on any machine, without data."""
    for name, parameters, ranks in (("gpt2_124m", 124_439_808, 16), ("gpt2_355m", 354_823_168, 16),
                                    ("gpt2_774m", 774_030_080, 32), ("gpt2_1558m", 1_557_611_200, 64),
                                    ("llama_8b", 8_030_261_248, 64)):
        config = os.path.join(os.environ["TESSERA_SOURCE"], "configs", f"{name}.toml")
        out = runs.tessera("plan", "-n", ranks, config, "run.device=cpu").out
        assert f"Parameters {parameters:,}" in out, out
    for name, parameters in (("resnet18", 11_689_512), ("resnet50", 25_557_032), ("resnet_fashion_mnist", 308_074)):
        config = os.path.join(os.environ["TESSERA_SOURCE"], "configs", f"{name}.toml")
        out = runs.tessera("plan", "-n", 4, config, "training.local_batch_size=8", "run.device=cpu").out
        assert f"Parameters {parameters:,}" in out, out


def peak_of(name, words):
    """The greatest resident size of a run, in bytes, from the kernel's account of an ended child. A child begins with the
    size of its parent: so it is started by a small one, which holds no numpy."""
    small_parent = """import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"""
    command = runs.command(["train", "gpt.toml", f"run.folder={name}", *words], 0)
    return 1024 * int(subprocess.run([sys.executable, "-c", small_parent, *command], env=runs.environment(), check=True,
                                     capture_output=True, timeout=runs.TIMEOUT).stdout)


def check_process():
    """Between a small and a larger model the process grows by what the plan grows by, up to a tenth."""
    large = ["model.dim=256", "training.seq_len=64", "training.local_batch_size=4"]
    plan = planned(large, 1, 0)["total"] - planned([], 1, 0)["total"]
    process = peak_of("large", large) - peak_of("small", [])
    assert 0.9 < process / plan < 1.15, f"planned {plan} bytes more, the process took {process} more"
    print(f"a larger model: {plan} bytes more planned, {process} bytes more resident")


with runs.folder():
    runs.write_text("text.txt", 8_000)
    runs.write_config("gpt.toml", KEYS)
    plans_of_rank_0 = [check_case(index, words, ranks) for index, (words, ranks) in enumerate(CASES)]
    check_meaning(plans_of_rank_0)
    check_limit()
    check_traffic()
    check_process()
    check_configs()
print(f"{len(CASES)} runs allocate what was planned")
