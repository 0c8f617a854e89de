# SPDX-License-Identifier: Apache-2.0
"""`tessera verify` says that all agree where they do, and names layer, value, micro-batch and rank of planted faults."""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

KEYS = {
    "data.reader": "synthetic", "data.vocab_size": 33, "data.synthetic_tokens": 2048,
    "model.n_layers": 3, "model.n_heads": 4, "model.dim": 32,
    "training.steps": 20, "training.seq_len": 12, "training.global_batch_size": 12, "training.local_batch_size": 2,
    "optimizer.lr": 3e-3, "lr_scheduler.warmup_steps": 5, "run.device": "cpu",
}
TENSOR = "parallelism.tensor_parallel_degree=2"
SEQUENCE = [TENSOR, "parallelism.sequence_parallel=true"]
CONTEXT = "parallelism.context_parallel_degree=2"
ZERO_3 = "parallelism.zero_stage=3"

# What must have the same bits is told from what may differ within a tolerance; ranks 0: `tessera verify -n 2` starts them.
AGREE = [
    (["-n", "2", "-t", "1", "training.recompute=full"], 0, "data 2 (2 ranks) and on one rank: the same bits are promised"),
    ([*SEQUENCE, ZERO_3, "model.bias=true", "model.dropout=0.1"], 4, "data 2 x tensor 2 (4 ranks) and on one rank: loss within 1e-06"),
    (["parallelism.pipeline_parallel_degree=2", "parallelism.pipeline_schedule=zero_bubble"], 2,
     "pipeline 2 x data 1 (2 ranks) and on one rank: the same bits are promised"),
    ([CONTEXT, "training.dtype=bf16"], 2, "data 1 x context 2 (2 ranks) and on one rank: loss within 4e-04"),
]

# What is planted, and what is said of it.
FAULTS = [
    ([TENSOR], 4, "drop:layers.1.mlp.down.all_reduce", """\
step 1, micro-batch 1 of 6, forward pass, layer 1: 'layers.1.mlp.down.all_reduce' on rank 0 (data 0, tensor 0)
  differs by 0.81 of its largest value, tolerance 3e-05
  what comes before it agrees, up to 'layers.1.mlp.activation'
"""),
    ([], 2, "scale:layers.2.mlp.up.weight_gradient", """\
step 1, micro-batch 1 of 6, backward pass, layer 2: 'layers.2.mlp.up.weight_gradient' (gradient of 'layers.2.mlp.up.weight') \
on rank 0 (data 0)
  differs by 1 of its largest value, tolerance 0
  what comes before it agrees, up to 'layers.2.mlp.up.input_gradient'
"""),
]


def check_agreement(words, ranks, promise):
    out = runs.tessera("verify", "gpt.toml", *words, ranks=ranks).out
    first, *steps, last = out.splitlines()
    assert first.startswith("gpt.toml on " + promise) and last == "3 steps: all agree", out
    found = [float(number) for line in steps for number in re.findall(r"\((?:differs by )?([\d.e+-]+)\)", line)]
    assert len(steps) == 3 and len(found) == 9, out
    assert (max(found) == 0) == ("same bits" in promise), out
    print(f"{' '.join(words)}: at most {max(found):.1e}")


def check_fault(words, ranks, fault, sentence):
    out = runs.tessera("verify", "gpt.toml", "--plant", fault, *words, ranks=ranks, code=1).out
    assert out.partition("\n")[2] == sentence, f"{fault}: expected {sentence}, found {out}"


with runs.folder() as folder:
    runs.write_config("gpt.toml", KEYS)
    for case in AGREE:
        check_agreement(*case)
    for case in FAULTS:
        check_fault(*case)
    assert [path.name for path in folder.iterdir()] == ["gpt.toml"], "verify leaves something behind"
print("runs that agree are told from runs with a fault, which is named")
