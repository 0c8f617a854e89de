# SPDX-License-Identifier: Apache-2.0
"""What `tessera plan --machine` predicts beside what others have published for the same model, layout and GPUs: within 15 %.
One constant of each machine's file is fitted on one row here ("fitted"), the others come from data sheets.

Megatron-LM: the table of its README (images/model_table.png, Megatron-Core 0.8, July 2024): GPT, bf16, 4,096 tokens,
vocabulary 131,072, operations counted as Narayanan et al. 2021 do, all of attention's. It says that sums of gradients,
gathered weights and tensor-parallel collectives go on beside the work: --beside. It does not say the micro-batch: all samples
of a replica at once without a pipeline, two with it. Nor the chunks of a pipeline: one layer in each.

torchtitan: benchmarks/llama3_h100_202412_torchtitan.md, tables 1, 3 and 5: Llama 3.1, 8,192 tokens, tokens per second and GPU,
with torch.compile. Our GPT has neither gated MLPs nor shared heads of keys: its MLP is as wide as makes the layer's
parameters the same. 405B multiplies in float8, which no layout with tensor ranks can here: planned in bf16 with linear
layers at the rate of 8-bit products. Its micro-batches: as many as stages, torchtitan's default then; its weights are
gathered once a step. It ran with asynchronous tensor parallelism, which by table 4 gains 6 %: here tensor-parallel collectives
are waited for, and only those over data ranks go on beside the work. Interleaved: two chunks a stage.

Assumed, then, of what is not published: micro-batches and chunks. The schedules are this program's own."""
import os
import pathlib
import re
import sys
import typing

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

MACHINES = pathlib.Path(os.environ["TESSERA_SOURCE"]) / "cluster" / "machines"
ALLOWED, ALLOWED_FITTED = 0.15, 0.02


class Row(typing.NamedTuple):
    name: str
    heads: int
    width: int
    layers: int
    tensor: int
    pipeline: int
    batch: int  # samples of a step
    published: float
    data: int = 48
    hidden: int = 0
    fitted: bool = False
    samples: int = 0  # of a micro-batch; 0: all of a replica
    chunks: int = 1  # of a stage


# TFLOP/s per GPU
MEGATRON = [
    Row("1.7B", 16, 2048, 24, 1, 1, 192, 408.8),
    Row("7.1B", 32, 4096, 30, 2, 1, 192, 465.9, fitted=True),
    Row("16B", 48, 6144, 32, 4, 1, 192, 489.1),
    Row("32B", 56, 7168, 48, 8, 1, 192, 459.6),
    Row("70B", 64, 8192, 84, 8, 2, 384, 419.7, samples=2, chunks=42),
    Row("119B", 80, 10240, 92, 8, 4, 768, 420.5, samples=2, chunks=23),
    Row("177B", 96, 12288, 96, 8, 6, 1152, 432.8, samples=2, chunks=16),
    Row("314B", 128, 16384, 96, 8, 8, 1536, 474.4, samples=2, chunks=12),
    Row("462B", 144, 18432, 112, 8, 16, 3072, 459.9, samples=2, chunks=7),
]
# Tokens per second and GPU
TORCHTITAN = [
    Row("Llama 3.1 8B", 32, 4096, 32, 1, 1, 16, 6667, data=8, hidden=18432, fitted=True),
    Row("Llama 3.1 8B", 32, 4096, 32, 1, 1, 256, 6514, data=128, hidden=18432),
    Row("405B 1F1B", 128, 16384, 126, 8, 8, 256, 100, data=8, hidden=64512, samples=4),
    Row("405B interl.", 128, 16384, 126, 8, 8, 256, 128, data=8, hidden=64512, samples=4, chunks=2),
]

COMMON = {
    "data.reader": "synthetic", "data.validation_fraction": 0, "model.tied_head": False, "training.dtype": "bf16",
    "optimizer.name": "adamw", "run.reproducible": False,
}


def step_seconds(row, machine, beside, keys):
    schedule = "interleaved" if row.chunks > 1 else "1f1b"
    runs.write_config("gpt.toml", {
        **COMMON, "model.n_heads": row.heads, "model.dim": row.width, "model.n_layers": row.layers,
        "training.global_batch_size": row.batch, "training.local_batch_size": row.samples or row.batch // row.data,
        "parallelism.tensor_parallel_degree": row.tensor, "parallelism.sequence_parallel": row.tensor > 1,
        "parallelism.pipeline_parallel_degree": row.pipeline, "parallelism.pipeline_schedule": schedule,
        "parallelism.pipeline_chunks": row.chunks, **keys})
    out = runs.tessera("plan", "-n", str(gpus(row)), "--machine", str(machine), "--beside", beside, "--many-hosts",
                       "gpt.toml").out
    return float(re.search(r"^  step +([0-9.]+) +100", out, re.MULTILINE).group(1)) / 1e3


def gpus(row):
    return row.tensor * row.pipeline * row.data


def megatron_tflops(row):
    """As its README has it: Narayanan et al. 2021, section 5.1, without recomputation."""
    tokens, vocabulary = 4096, 131072
    keys = {"data.vocab_size": vocabulary, "training.seq_len": tokens, "model.bias": True, "parallelism.zero_stage": 1}
    flops = 72 * row.batch * tokens * row.layers * row.width ** 2 * (
        1 + tokens / (6 * row.width) + vocabulary / (12 * row.layers * row.width))
    return flops / step_seconds(row, MACHINES / "h100_ndr.toml", "data,tensor", keys) / gpus(row) / 1e12


def torchtitan_tokens(row):
    tokens, machine = 8192, MACHINES / "h100_500w.toml"
    keys = {"data.vocab_size": 128256, "training.seq_len": tokens, "model.norm": "rms_norm", "model.hidden_dim": row.hidden,
            "parallelism.zero_stage": 3, "training.recompute": "selective"}
    if row.pipeline > 1:
        pathlib.Path("f8.toml").write_text(f'base = "{machine}"\n[rank]\nbf16_flops = 1978.8e12\n'
                                           "attention_efficiency = 0.17 # of twice as much: attention is in bf16\n", encoding="utf-8")
        machine, keys["parallelism.zero_stage"], keys["training.recompute"] = "f8.toml", 1, "full"
    return row.batch * tokens / step_seconds(row, machine, "data", keys) / gpus(row)


def compare(title, rows, predict):
    print(f"\n{title}\n{'model':<14}{'tensor x pipeline x data':>26}{'published':>12}{'predicted':>12}")
    wrong = []
    for row in rows:
        predicted = predict(row)
        error = predicted / row.published - 1
        layout = f"{row.tensor} x {row.pipeline} x {row.data}"
        print(f"{row.name:<14}{layout:>26}{row.published:>12,.1f}{predicted:>12,.1f}  {error:+.1%}{'  fitted' if row.fitted else ''}")
        if abs(error) > (ALLOWED_FITTED if row.fitted else ALLOWED):
            wrong.append(f"{row.name} on {layout}: {error:+.1%}")
    return wrong


with runs.folder():
    failures = compare("Megatron-LM, TFLOP/s per GPU", MEGATRON, megatron_tflops)
    failures += compare("torchtitan, tokens/s per GPU", TORCHTITAN, torchtitan_tokens)
assert sum(row.fitted for row in MEGATRON + TORCHTITAN) <= 2
assert not failures, failures
print("\npredictions are within 15 % of what was published")
