# SPDX-License-Identifier: Apache-2.0
"""Tensor, sequence, context (by heads and around a ring) and expert parallelism, alone and with data parallelism, its
ZeRO stages and pipelines, train to the losses of one rank within the tolerances below; what only the number of data ranks,
the stage of ZeRO or a pipeline tells apart has the same bits; checkpoints pass from layout to layout. And a step that is
longer by a thousandth is found, so the comparison can fail."""
import os
import re
import sys
import typing

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import runs


class Tolerance(typing.NamedTuple):
    """Of differences relative to one rank. Of a tensor: the norm of the difference over the norm."""

    loss: float  # of any step, and of evaluations
    grad_norm: float
    tensor: float  # weights and optimizer states after the last step


# The largest of all cases below, as measured: f32 2.2e-7, 2.8e-7, 2.9e-6; bf16 1.8e-4, 2.7e-3, 3.0e-2.
TOLERANCES = {"f32": Tolerance(1e-6, 2e-6, 1e-5), "bf16": Tolerance(4e-4, 1e-2, 8e-2)}

KEYS = {
    "data.reader": "synthetic", "data.vocab_size": 65, "data.synthetic_tokens": 16384,
    "model.n_layers": 2, "model.n_heads": 4, "model.dim": 48,
    "training.steps": 20, "training.seq_len": 22, "training.global_batch_size": 12, "training.local_batch_size": 2,
    "optimizer.lr": 3e-3, "lr_scheduler.warmup_steps": 5,
    "metrics.evaluate_every": 10, "data.validation_fraction": 0.0175,  # of 13 or 11 samples, which no layout here shares evenly
    "checkpoint.interval": 10, "checkpoint.keep_latest_k": 0, "run.device": "cpu",
}

MODELS = {
    "f32": [],
    "bf16": ["training.dtype=bf16"],
    "biased": ["model.bias=true", "model.tied_head=false", "model.activation=silu"],
    "dropout": ["model.dropout=0.1", "model.norm=rms_norm", "model.n_layers=3", "model.dim=32", "training.seq_len=24"],
    # Parts of several of the blocks of 4096 elements that ZeRO keeps together.
    "wide": ["model.n_layers=1", "model.dim=160", "training.seq_len=62"],
    "experts": ["model.moe_experts=4", "model.dim=32", "model.bias=true", "model.dropout=0.1", "training.local_batch_size=4",
                "training.global_batch_size=16", "data.validation_fraction=0.1", "metrics.evaluate_batches=6"],
    "all-bf16": ["training.dtype=bf16", "model.dropout=0.1", "model.bias=true", "model.tied_head=false",
                 "training.seq_len=24"],
}

SEQUENCE = ["parallelism.sequence_parallel=true"]
RING = ["parallelism.context_parallel_method=ring"]
MESSAGES = ["parallelism.shared_memory=false"]
BUCKETS = ["parallelism.bucket_cap_mb=0.02"]
ZERO = [[f"parallelism.zero_stage={stage}"] for stage in range(4)]
NAMES = {SEQUENCE[0]: "sequence", RING[0]: "ring", MESSAGES[0]: "messages", BUCKETS[0]: "buckets",
         **{words[0]: f"zero-{stage}" for stage, words in enumerate(ZERO)}}


class Layout(typing.NamedTuple):
    data: int
    tensor: int
    words: list = []
    context: int = 1
    expert: int = 1
    pipeline: int = 1

    @property
    def ranks(self):
        return self.pipeline * self.data * self.expert * self.context * self.tensor

    @property
    def name(self):
        every = ("pipeline", "data", "expert", "context", "tensor")
        axes = [f"{axis}-{getattr(self, axis)}" for axis in every if getattr(self, axis) > 1]
        return "-".join([*(axes or ["alone"]), *(NAMES[word] for word in self.words)])


# 65 tokens of vocabulary and 22 positions, shared out unevenly by 2 or 4 tensor ranks; 6 micro-batches. The 4 heads are
# no multiple of a ring of 3. Every mode and pair of modes is in tests/core/parallel_modes.cpp: here are messages, buckets,
# types, blocks of ZeRO, and what is read and written.
CASES = {
    "f32": [Layout(1, 2), Layout(1, 4, SEQUENCE), Layout(2, 2), Layout(3, 2, BUCKETS + ZERO[1]),
            Layout(2, 2, MESSAGES + ZERO[2]), Layout(1, 2, MESSAGES, 2), Layout(1, 2, SEQUENCE, pipeline=2)],
    "bf16": [Layout(1, 2), Layout(1, 4, SEQUENCE)],
    "biased": [Layout(2, 2, SEQUENCE + BUCKETS + ZERO[3])],
    "dropout": [Layout(2, 2, MESSAGES + BUCKETS), Layout(1, 1, RING + MESSAGES, 4), Layout(1, 1, RING, 3),
                Layout(2, 1, RING + ZERO[3], 2)],
    "wide": [Layout(2, 2, SEQUENCE + ZERO[2]), Layout(2, 2, SEQUENCE + ZERO[3]), Layout(2, 1, ZERO[3], 2)],
    "experts": [Layout(1, 1, [], 1, 2), Layout(2, 1, ZERO[3], 1, 2), Layout(1, 1, MESSAGES, 2, 2)],
    "all-bf16": [Layout(1, 4), Layout(2, 1, MESSAGES, 2), Layout(2, 2, SEQUENCE), Layout(1, 2, RING, 2)],
}


def run(model, layout, *words, folder=None):
    folder = folder or f"{model}-{layout.name}"
    runs.train("gpt.toml", f"run.folder={folder}", f"parallelism.tensor_parallel_degree={layout.tensor}",
               f"parallelism.context_parallel_degree={layout.context}",
               f"parallelism.expert_parallel_degree={layout.expert}",
               f"parallelism.pipeline_parallel_degree={layout.pipeline}", *MODELS[model], *layout.words, *words,
               ranks=layout.ranks)
    return runs.read(folder)


def comparable(name, tensor):
    """Keys' biases are left out: softmax takes no notice of them, so that Adam makes whole steps of their rounding."""
    return tensor[::2] if name.endswith("attention.qkv.bias") else tensor


def distances(one, other, since=0):
    """By kind, how far the runs are apart: the kinds of Tolerance."""
    def relative(what, number):
        a, b = ({step: float(number(value)) for step, value in getattr(result, what).items() if step > since}
                for result in (one, other))
        assert a and sorted(a) == sorted(b), f"{what}: of steps {sorted(a)} and {sorted(b)}"
        return max(abs(a[step] - b[step]) / abs(a[step]) for step in a)

    def of_tensor(name):
        a, b = (comparable(name, result.tensors[name].astype("f8")) for result in (one, other))
        return np.linalg.norm(a - b) / np.linalg.norm(a)

    assert sorted(one.tensors) == sorted(other.tensors)
    return Tolerance(max(relative("losses", str), relative("evaluations", lambda value: value[0])),
                     relative("grad_norms", str), max(map(of_tensor, one.tensors)))


def expect_near(one, other, model, what, since=0):
    found, allowed = distances(one, other, since), TOLERANCES["bf16" if "bf16" in model else "f32"]
    evaluated = [{step: of[-1] for step, of in result.evaluations.items() if step > since} for result in (one, other)]
    assert evaluated[0] == evaluated[1], f"{what}: tokens evaluated: {evaluated}"
    assert all(distance <= most for distance, most in zip(found, allowed)), f"{what}: {found}, allowed {allowed}"
    print(f"{what}: loss {found.loss:.1e}, norm {found.grad_norm:.1e}, tensors {found.tensor:.1e}")


def check_model(model):
    """One rank against each layout, and layouts that differ in data ranks, stages, messages or buckets against each
    other."""
    one = run(model, Layout(1, 1))
    assert float(one.losses[20]) < float(one.losses[1]) - 0.3, f"it does not learn: {one.losses}"
    assert model != "f32" or one.evaluations[20][-1] == 13 * 22, f"not an odd number of samples: {one.evaluations}"
    same = {}
    for layout in CASES[model]:
        result = run(model, layout)
        assert runs.writers(runs.checkpoints(f"{model}-{layout.name}")[-1]) == layout.ranks
        expect_near(one, result, model, f"{model}, {layout.name}")
        computed = (layout.expert, layout.context, layout.tensor, SEQUENCE[0] in layout.words, RING[0] in layout.words)
        before = same.setdefault(computed, result)
        runs.expect_same(before, result, f"{model}, {layout.name}: another number of data ranks or stages")
    return one


def check_controls(one):
    """What must be found: another seed, and a step that is longer by a thousandth, in every figure."""
    for name, word in (("seed", "training.seed=2"), ("rate", f"optimizer.lr={3e-3 * 1.001}")):
        found = distances(one, run("f32", Layout(1, 2), word, folder=f"other-{name}"))
        assert all(distance > 2 * most for distance, most in zip(found, TOLERANCES["f32"])), f"other {name}: {found}"


def check_resumed(one):
    """From a checkpoint of one layout on with another, to the end of the uninterrupted run; and evaluation of a run on
    other ranks than it was trained on."""
    four = Layout(1, 4, SEQUENCE)
    for before, after in ((Layout(1, 2), Layout(1, 1)), (Layout(1, 1), Layout(2, 2)), (four, Layout(2, 1, ZERO[1], 2)),
                          (Layout(1, 2, SEQUENCE, pipeline=2), Layout(2, 1, ZERO[2])), (Layout(2, 2), Layout(1, 1, pipeline=2))):
        checkpoint = f"f32-{before.name}/checkpoints/step-00000010"
        assert runs.writers(checkpoint) == before.ranks
        result = run("f32", after, f"checkpoint.resume={checkpoint}", folder=f"{before.name}-then-{after.name}")
        assert list(result.losses) == list(range(11, 21)), list(result.losses)
        expect_near(one, result, "f32", f"{before.name}, then {after.name}", since=10)
    for degree, ranks in ((1, 0), (2, 2), (4, 4)):
        degree_word = f"parallelism.tensor_parallel_degree={degree}"
        out = runs.tessera("evaluate", f"f32-{Layout(1, 2).name}", degree_word, ranks=ranks).out
        found, expected = float(re.search(r"validation loss: ([\d.]+)", out)[1]), float(one.evaluations[20][0])
        assert abs(found - expected) < 2e-6, f"evaluated on {ranks} ranks: {out}, expected {expected}"


def check_experts(one):
    """What became of tokens is counted alike on every layout, and experts pass to other ranks with a checkpoint."""
    fields = ("balance_loss", "z_loss", "dropped_fraction")
    numbers = [[float(record[field]) for field in fields] for record in runs.metrics("experts-alone", "step")]
    assert all(0 < dropped < 0.5 for _, _, dropped in numbers), numbers
    for layout in CASES["experts"]:
        found = [[float(record[field]) for field in fields]
                 for record in runs.metrics(f"experts-{layout.name}", "step")]
        assert np.allclose(found, numbers, rtol=1e-5, atol=0), f"{layout.name}: {found}, expected {numbers}"
    checkpoint = f"experts-{CASES['experts'][0].name}/checkpoints/step-00000010"
    result = run("experts", Layout(1, 2), f"checkpoint.resume={checkpoint}", folder="experts-then-tensor-2")
    expect_near(one, result, "experts", "expert ranks, then tensor ranks", since=10)


with runs.folder():
    runs.write_config("gpt.toml", KEYS)
    alone = {name: check_model(name) for name in MODELS}
    assert distances(alone["f32"], alone["bf16"]).loss > 10 * TOLERANCES["f32"].loss, "bf16 computes in f32"
    check_controls(alone["f32"])
    check_resumed(alone["f32"])
    check_experts(alone["experts"])
print("tensor, sequence, context and expert parallelism train as one rank does")
