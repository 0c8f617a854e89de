# SPDX-License-Identifier: Apache-2.0
"""Losses against PyTorch: 20 losses and the first gradients of an MLP on a table; targets that do not count leave a mean
over the others, of the whole step, with the same bits on 1, 2 and 4 ranks."""
import os
import pathlib
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import numpy as np
import runs
import torch

STEPS, BATCH, CLASSES, ROWS = 20, 16, 5, 80
LOSS, GRADIENT, EVALUATION = 1e-5, 1e-5, 1e-5  # relative
F = torch.nn.functional

MODEL = f"""
[data]
reader = "csv"
order = "sequential"
validation_fraction = 0.2
TARGETS
[training]
steps = {STEPS}
global_batch_size = {BATCH}
local_batch_size = 4
max_norm = 0.0
[optimizer]
name = "adamw"
lr = 3e-3
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
name = "fc1"
type = "linear"
outputs = 24
[[model.layers]]
type = "silu"
[[model.layers]]
name = "fc2"
type = "linear"
outputs = OUTPUTS
[[model.layers]]
name = "loss"
LOSS
"""
LABELS = ('files = ["labels.csv"]\nlabel_column = "label"', CLASSES)
NUMBERS = ('files = ["numbers.csv"]\ntarget_columns = ["a", "b"]', 2)


class Mlp(torch.nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.fc1 = torch.nn.Linear(3, 24)
        self.fc2 = torch.nn.Linear(24, outputs)

    def forward(self, x):
        return self.fc2(F.silu(self.fc1(x)))


def load(model, tensors):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.tensor(np.asarray(tensors[name], np.float64)).reshape(parameter.shape))
    return model


def write_config(what, form, loss):
    targets, outputs = form
    text = MODEL.replace("TARGETS", targets).replace("OUTPUTS", str(outputs)).replace("LOSS", loss)
    pathlib.Path(f"{what}.toml").write_text(text)


def check(what, form, loss, inputs, targets, loss_of):
    """Returns the evaluation's record."""
    write_config(what, form, loss)
    runs.train(f"{what}.toml", "run.folder=start", "training.steps=1", "optimizer.lr=0", "checkpoint.resume=never")
    tensors = runs.read_tensors(runs.checkpoints("start")[-1])
    model = load(Mlp(form[1]).double(), tensors)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.95), eps=1e-8)
    trained = ROWS * 4 // 5
    losses = []
    for step in range(STEPS):
        rows = [(step * BATCH + i) % trained for i in range(BATCH)]
        optimizer.zero_grad()
        mean = loss_of(model(inputs[rows]), targets[rows])
        mean.backward()
        losses.append(mean.item())
        for name, parameter in model.named_parameters() if step == 0 else ():
            found = torch.tensor(np.asarray(tensors["optimizer.first_moment/" + name], np.float64)) / 0.1
            error = (found.reshape(parameter.shape) - parameter.grad).norm() / parameter.grad.norm()
            assert error < GRADIENT, f"{what}: gradient of {name}: relative error {error:.2e}"
        optimizer.step()
    runs.train(f"{what}.toml", f"run.folder={what}")
    found = np.array([float(record["loss"]) for record in runs.metrics(what, "step")])
    error = np.abs(found / np.array(losses) - 1)
    assert len(found) == STEPS and found[-1] < 0.98 * found[0], f"{what}: it does not learn: {found}"
    assert error.max() < LOSS, f"{what}: losses differ by {error.max():.2e} of themselves: {found} {losses}"
    load(model, runs.read_tensors(runs.checkpoints(what)[-1]))
    logits = model(inputs[trained:]).detach()
    wanted, record = loss_of(logits, targets[trained:]).item(), runs.metrics(what, "evaluation")[-1]
    assert abs(float(record["loss"]) / wanted - 1) < EVALUATION, f"{what}: {record}, expected {wanted}"
    print(f"{what}: {STEPS} losses within {error.max():.1e} of themselves")
    return record, logits


def check_ranks(what):
    """A step's targets are unevenly spread over its micro-batches, and some ranks may have none at all."""
    for ranks, words in ((2, ["parallelism.zero_stage=1"]), (4, ["parallelism.zero_stage=3"]),
                         (2, ["parallelism.pipeline_parallel_degree=2"])):
        runs.train(f"{what}.toml", "run.folder=many", "checkpoint.resume=never", *words, ranks=ranks)
        runs.expect_same(runs.read(what), runs.read("many"), f"{what} on 1 rank and on {ranks} with {words}")


def check_ignored(inputs, labels):
    record, logits = check("ignored", LABELS, 'type = "cross_entropy"\nignore_index = 2', inputs, labels,
                           lambda y, t: F.cross_entropy(y, t, ignore_index=2))
    counts = labels[ROWS * 4 // 5:] != 2
    accuracy = (logits.argmax(1) == labels[ROWS * 4 // 5:])[counts].double().mean().item()
    assert abs(float(record["accuracy"]) - accuracy) < 1e-6, (record, accuracy)
    check_ranks("ignored")
    runs.train("ignored.toml", "run.folder=f16", "training.dtype=f16", "optimizer.lr=1e-3")
    found = [float(record["loss"]) for record in runs.metrics("f16", "step")]
    assert abs(found[0] / float(runs.metrics("ignored", "step")[0]["loss"]) - 1) < 2e-3, found
    out = runs.tessera("verify", "-n", 2, "--steps", 2, "ignored.toml", "parallelism.tensor_parallel_degree=2").out
    assert "2 steps: all agree" in out, out


def refuse(config, loss, sentence):
    write_config("wrong", LABELS, loss)
    err = runs.tessera("train", "wrong.toml", code=2).err
    assert sentence in err and err.count("\n") == 1, f"{loss}: expected {sentence!r}, got:\n{err}"


def write_tables():
    draw = np.random.default_rng(3)
    x = draw.normal(size=(ROWS, 3)).astype(np.float32)
    labels = np.digitize(x[:, 0] + 0.5 * x[:, 1] * x[:, 2], [-1, -0.3, 0.3, 1])
    labels[4:8] = 2  # a micro-batch of which nothing counts where 2 is left out
    numbers = np.stack([np.sin(x[:, 0]) + 3 * (x[:, 1] > 1.5), x[:, 0] * x[:, 2]], 1).astype(np.float32)
    for name, header, columns in (("labels", "label", labels[:, None]), ("numbers", "a,b", numbers)):
        lines = [f"x,y,z,{header}"] + [",".join(map(repr, a + b)) for a, b in zip(x.tolist(), columns.tolist())]
        pathlib.Path(f"{name}.csv").write_text("\n".join(lines) + "\n")
    return x, labels, numbers


def normal(columns):
    """As the reader makes features of them: by the training rows' mean and deviation."""
    columns = columns.astype(np.float64)
    train = columns[:ROWS * 4 // 5]
    return torch.tensor((columns - train.mean(0)) / train.std(0))


with runs.folder():
    features, wanted_labels, wanted_numbers = write_tables()
    check_ignored(normal(features), torch.tensor(wanted_labels.astype(np.int64)))
    refuse("wrong", 'type = "cross_entropy"\nignore_index = -2', "must be a class, or -1 for none")
