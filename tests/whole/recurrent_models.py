# SPDX-License-Identifier: Apache-2.0
"""LSTM and GRU language models of [[model.layers]] against PyTorch: first gradients, 50 losses with states carried on from
step to step and cut at the end of an epoch, evaluation, and the most likely text. The same bits on any number of ranks, on
the stages of a pipeline, and of a run that was stopped; what cannot carry a state on is refused."""
import collections
import os
import pathlib
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import parity
import runs
import torch

STEPS, ROWS, TIME, WIDTH, HIDDEN = 20, 6, 7, 12, 20

COMMON = f"""
[data]
files = ["text.txt"]
tokenizer = "word"
validation_fraction = 0.2
[training]
steps = {STEPS}
seq_len = {TIME}
global_batch_size = {ROWS}
local_batch_size = 1
max_norm = 0.0
[optimizer]
lr = 1e-2
weight_decay = 0.0
[lr_scheduler]
type = "constant"
warmup_steps = 0
[metrics]
evaluate_every = 0
[checkpoint]
interval = 0
[model]
type = "layers"
[[model.layers]]
name = "embed"
type = "embedding"
outputs = {WIDTH}
"""
HEAD = """
[[model.layers]]
name = "out"
type = "linear"
outputs = VOCABULARY
[[model.layers]]
type = "cross_entropy"
"""


def cells(kind, *keys):
    return "\n".join(["[[model.layers]]", 'name = "cells"', f'type = "{kind}"', f"hidden = {HIDDEN}", *keys])


class Model(torch.nn.Module):
    def __init__(self, kind, vocabulary, **options):
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, WIDTH)
        self.cells = kind(WIDTH, HIDDEN, batch_first=True, **options)
        self.out = torch.nn.Linear(HIDDEN * (2 if options.get("bidirectional") else 1), vocabulary)

    def forward(self, tokens, state=None):
        y, state = self.cells(self.embed(tokens), state)
        return self.out(y), state


def ours(tensors, name, like, prefix=""):
    """Of our tensor, with its directions in front, the part that PyTorch calls so."""
    reverse = name.endswith("_reverse")
    tensor = np.asarray(tensors[prefix + name.removesuffix("_reverse")], np.float64)
    return torch.tensor(tensor[1 if reverse else 0] if "cells." in name else tensor).reshape(like.shape)


def load(model, tensors):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(ours(tensors, name, parameter))
    return model


class Text:
    def __init__(self):
        runs.write_text("text.txt", 1700)
        words = pathlib.Path("text.txt").read_text(encoding="utf-8").split()
        counts = collections.Counter(words)
        self.words = ["<unk>", "<eos>", *sorted(counts, key=lambda word: (-counts[word], word))]
        tokens = np.array([self.words.index(word) for word in words])
        cut = int(np.floor(0.8 * len(tokens)))
        self.parts = {"train": tokens[:cut], "validation": tokens[cut:]}

    def windows(self, part, rows):
        """(steps of an epoch, rows) first tokens of the windows, each row going on with its own part."""
        count = (len(self.parts[part]) - TIME - 1) // TIME + 1
        steps = count // rows
        return np.arange(rows)[None, :] * steps * TIME + np.arange(steps)[:, None] * TIME

    def batch(self, part, starts):
        tokens = torch.tensor(np.stack([self.parts[part][start:start + TIME + 1] for start in starts]))
        return tokens[:, :-1], tokens[:, 1:]


def loss_of(logits, targets):
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def detached(state):
    return state.detach() if torch.is_tensor(state) else tuple(part.detach() for part in state)


def check_parity(what, text, model, carries):
    runs.train(f"{what}.toml", "run.folder=start", "training.steps=1", "optimizer.lr=0", "checkpoint.resume=never")
    tensors = runs.read_tensors(runs.checkpoints("start")[-1])
    model = load(model.double(), tensors)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    losses, state = [], None
    windows = text.windows("train", ROWS if carries else 1)
    assert not carries or 1 < len(windows) < STEPS / 2, f"an epoch of {len(windows)} steps ends within the run"
    for step in range(parity.STEPS):
        optimizer.zero_grad()
        if carries:
            starts, state = windows[step % len(windows)], state if step % len(windows) else None
        else:
            starts = [windows[(step * ROWS + row) % len(windows), 0] for row in range(ROWS)]
        inputs, targets = text.batch("train", starts)
        logits, after = model(inputs, state)
        state = detached(after) if carries else None
        loss = loss_of(logits, targets)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            parity.expect_gradients(what, {
                name: ours(tensors, name, parameter, "optimizer.first_moment/") / 0.1 for name, parameter in model.named_parameters()
            }, parity.gradients(model))
        optimizer.step()
    runs.train(f"{what}.toml", f"run.folder={what}", f"training.steps={parity.STEPS}")
    parity.expect_losses(what, what, losses, falls=0.05)
    return load(model, runs.read_tensors(runs.checkpoints(what)[-1]))


def check_evaluation(what, text, model):
    """States begin with 0 and go on through the validation split; those of training are not touched (check_bits)."""
    record, = runs.metrics(what, "evaluation")
    count = len(text.windows("validation", 1))
    steps = -(-count // ROWS)  # of no more rows than those of training
    windows, state, losses, hits = text.windows("validation", count // steps), None, [], 0
    for starts in windows:
        inputs, targets = text.batch("validation", starts)
        logits, state = model(inputs, state)
        losses.append(loss_of(logits, targets).item())
        hits += (logits.argmax(-1) == targets).sum().item()
    assert len(windows) > 1 and record["tokens"] == windows.size * TIME, (record, windows.shape)
    assert abs(float(record["loss"]) / np.mean(losses) - 1) < parity.LOSS, (record, np.mean(losses))
    assert abs(float(record["accuracy"]) - hits / record["tokens"]) < 1e-6, (record, hits)
    out = runs.tessera("evaluate", what, ranks=2).out
    assert f"loss: {float(record['loss']):.6f}" in out or record["loss"][:8] in out, (out, record)


def check_text(what, text, model):
    """A token at a time, the state going on: as PyTorch goes on from the whole prompt."""
    prompt = "he was in the of"
    tokens = [text.words.index(word) for word in prompt.split()]
    logits, state = model(torch.tensor([tokens]))
    found = []
    for _ in range(30):
        found.append(int(logits[0, -1].argmax()))
        logits, state = model(torch.tensor([[found[-1]]]), state)
    out = runs.tessera("generate", what, "--prompt", prompt, "--tokens", 30, "--temperature", 0).out
    assert out == prompt + " " + " ".join(text.words[token] for token in found) + "\n", (out, found)


def check_bits(what):
    runs.train(f"{what}.toml", f"run.folder={what}-1-rank")
    one = runs.read(f"{what}-1-rank")
    states = [name for name in one.tensors if name.startswith(f"optimizer.carried.{ROWS}.")]
    assert len(states) == 4 and all(one.tensors[name][:ROWS].any() and not one.tensors[name][ROWS].any() for name in states), states
    for name, words, options in (
            ("2-ranks", ["metrics.evaluate_every=5"], {"ranks": 2}),
            ("2-ranks-zero-3", ["parallelism.zero_stage=3"], {"ranks": 2}),
            ("3-ranks", [], {"ranks": 3}),
            ("4-ranks", [], {"ranks": 4}),  # 2, 2, 1 and 1 of the 6 micro-batches
            ("recompute", ["training.recompute=full"], {}),
            ("pipeline", ["parallelism.pipeline_parallel_degree=2", "parallelism.pipeline_schedule=zero_bubble"], {"ranks": 2})):
        runs.train(f"{what}.toml", f"run.folder={what}-{name}", *words, **options)
        other = runs.read(f"{what}-{name}")
        runs.expect_same(one._replace(evaluations={}), other._replace(evaluations={}), f"{what}: 1 rank and {name}")
    for steps, words, ranks in ((9, [], 3), (13, ["parallelism.zero_stage=2"], 2), (STEPS, [], 1)):
        runs.train(f"{what}.toml", "run.folder=resumed", f"training.steps={steps}", *words, ranks=ranks)
    resumed = runs.read("resumed")
    runs.expect_same(one, resumed, "one run, and one that was stopped twice", since=13)


def check_layouts(what):
    """Within rounding, whole on the ranks of a tensor axis."""
    out = runs.tessera("verify", "-n", 4, "--steps", 3, f"{what}.toml", "parallelism.tensor_parallel_degree=2").out
    assert "3 steps: all agree" in out, out
    runs.train(f"{what}.toml", f"run.folder={what}-bf16", "training.dtype=bf16")
    narrow, wide = (float(runs.metrics(folder, "step")[-1]["loss"]) for folder in (f"{what}-bf16", f"{what}-1-rank"))
    assert abs(narrow / wide - 1) < 0.01, (narrow, wide)


def check_refusals(vocabulary):
    def refuse(words, sentence):
        err = runs.tessera(*words, code=2).err
        assert sentence in err and err.count("\n") == 1, f"{words}: expected {sentence!r}, got:\n{err}"

    refuse(["train", "gru.toml", "data.order=stream"], "layer 'cells' of type 'gru' does not fit 'embed' (7, 12): is bidirectional: it looks at what")
    refuse(["generate", "gru"], "is bidirectional")
    refuse(["train", "lstm.toml", "data.vocab_size=99"], f"the corpus has {vocabulary - 2} different words, with <unk> and <eos> "
           f"{vocabulary}: too few for a vocabulary of 99")
    plain = pathlib.Path("lstm.toml").read_text(encoding="utf-8")
    pathlib.Path("wrong.toml").write_text(plain.replace('type = "embedding"\noutputs = 12', 'type = "relu"'), encoding="utf-8")
    refuse(["train", "wrong.toml"], "does not fit 'tokens' (7)")
    pathlib.Path("wrong.toml").write_text(plain.replace("layers = 2", "layers = 2\ndropout = 1.5"), encoding="utf-8")
    refuse(["train", "wrong.toml"], "dropout = 1.5: must be at least 0 and below 1")
    err = runs.tessera("train", "lstm.toml", "training.global_batch_size=600", code=3).err
    assert "too few for 600 streams (data.order), one for each row of a step" in err, err


with runs.folder():
    text = Text()
    head = HEAD.replace("VOCABULARY", str(len(text.words)))
    stream = COMMON.replace("[data]", '[data]\norder = "stream"')
    pathlib.Path("lstm.toml").write_text(stream + cells("lstm", "layers = 2") + head, encoding="utf-8")
    pathlib.Path("gru.toml").write_text(COMMON.replace("[data]", '[data]\norder = "sequential"')
                                        + cells("gru", "layers = 2", "bidirectional = true") + head, encoding="utf-8")
    pathlib.Path("gru_stream.toml").write_text(stream + cells("gru") + head, encoding="utf-8")
    lstm = check_parity("lstm", text, Model(torch.nn.LSTM, len(text.words), num_layers=2), True)
    check_evaluation("lstm", text, lstm)
    check_text("lstm", text, lstm)
    for name, kind, both in (("lstm", torch.nn.LSTM, True), ("gru", torch.nn.GRU, False)):
        pathlib.Path(f"{name}_plain.toml").write_text(COMMON.replace("[data]", '[data]\norder = "sequential"') + cells(
            name, "bias = false", *(["bidirectional = true"] if both else [])) + head, encoding="utf-8")
        check_parity(f"{name}_plain", text, Model(kind, len(text.words), bias=False, bidirectional=both), False)
    check_parity("gru", text, Model(torch.nn.GRU, len(text.words), num_layers=2, bidirectional=True), False)
    gru = check_parity("gru_stream", text, Model(torch.nn.GRU, len(text.words)), True)
    check_text("gru_stream", text, gru)
    check_bits("lstm")
    check_layouts("lstm")
    check_refusals(len(text.words))
